// SPDX-License-Identifier: Apache-2.0
// Calls between two processes: that of the tests and that of the program that is tested. Requests go from descriptor 4 of
// the one to 3 of the other, answers back likewise; each is its length and its bytes. What arrives is checked against the
// type that the signature says before it is used. Included behind the headers that the signature needs: types of a container
// that is not declared by then are left out (the names of libstdc++'s include guards).
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace gradus_wire {

constexpr std::uint64_t kLongest = 16u << 20;

struct Broken : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Writer {
    std::string bytes;
    void raw(const void* from, std::size_t n) { bytes.append(static_cast<const char*>(from), n); }
};
struct Reader {
    std::string bytes;
    std::size_t at = 0;
    void raw(void* to, std::size_t n) {
        if (n > bytes.size() - at) throw Broken("an answer of the program is malformed");
        std::memcpy(to, bytes.data() + at, n);
        at += n;
    }
    std::uint64_t count() {
        std::uint64_t n = 0;
        raw(&n, sizeof n);
        if (n > bytes.size() - at) throw Broken("an answer of the program is malformed");
        return n;
    }
};

template <class T, class = void>
struct Wire {
    static_assert(!sizeof(T*), "this type cannot be passed between a program and its tests");
};

template <class T>
struct Wire<T, std::enable_if_t<std::is_integral_v<T>>> {
    static void put(Writer& w, T v) {
        const std::int64_t x = static_cast<std::int64_t>(v);
        w.raw(&x, sizeof x);
    }
    static T get(Reader& r) {
        std::int64_t x = 0;
        r.raw(&x, sizeof x);
        const T v = static_cast<T>(x);
        if (static_cast<std::int64_t>(v) != x) throw Broken("an answer of the program is out of range");
        return v;
    }
};
template <class T>
struct Wire<T, std::enable_if_t<std::is_floating_point_v<T>>> {
    static void put(Writer& w, T v) {
        const long double x = v;
        w.raw(&x, 10);
    }
    static T get(Reader& r) {
        long double x = 0;
        r.raw(&x, 10);
        return static_cast<T>(x);
    }
};
template <>
struct Wire<std::string> {
    static void put(Writer& w, const std::string& v) {
        const std::uint64_t n = v.size();
        w.raw(&n, sizeof n);
        w.raw(v.data(), v.size());
    }
    static std::string get(Reader& r) {
        std::string v(r.count(), '\0');
        r.raw(&v[0], v.size());
        return v;
    }
};

template <class C>
struct Range {
    static void put(Writer& w, const C& v) {
        const std::uint64_t n = v.size();
        w.raw(&n, sizeof n);
        for (const auto& x : v) Wire<std::decay_t<decltype(x)>>::put(w, x);
    }
    template <class T, class Add>
    static C read(Reader& r, Add add) {
        C v;
        for (std::uint64_t n = r.count(); n > 0; --n) add(v, Wire<T>::get(r));
        return v;
    }
};
template <class C>
struct Sequence : Range<C> {
    static C get(Reader& r) {
        return Range<C>::template read<typename C::value_type>(r, [](C& v, auto&& x) { v.push_back(std::move(x)); });
    }
};
template <class C>
struct Keyed : Range<C> {
    static C get(Reader& r) {
        return Range<C>::template read<typename C::value_type>(r, [](C& v, auto&& x) { v.insert(std::move(x)); });
    }
};
template <class T, class A> struct Wire<std::vector<T, A>> : Sequence<std::vector<T, A>> {};
template <class A>
struct Wire<std::vector<bool, A>> : Sequence<std::vector<bool, A>> {
    static void put(Writer& w, const std::vector<bool, A>& v) {
        const std::uint64_t n = v.size();
        w.raw(&n, sizeof n);
        for (const bool x : v) Wire<bool>::put(w, x);
    }
};
#ifdef _GLIBCXX_LIST
template <class T, class A> struct Wire<std::list<T, A>> : Sequence<std::list<T, A>> {};
#endif
#ifdef _GLIBCXX_DEQUE
template <class T, class A> struct Wire<std::deque<T, A>> : Sequence<std::deque<T, A>> {};
#endif
#ifdef _GLIBCXX_SET
template <class T, class C, class A> struct Wire<std::set<T, C, A>> : Keyed<std::set<T, C, A>> {};
template <class T, class C, class A> struct Wire<std::multiset<T, C, A>> : Keyed<std::multiset<T, C, A>> {};
#endif
#ifdef _GLIBCXX_UNORDERED_SET
template <class T, class H, class E, class A>
struct Wire<std::unordered_set<T, H, E, A>> : Keyed<std::unordered_set<T, H, E, A>> {};
#endif

template <class K, class V> struct Wire<std::pair<K, V>> {
    static void put(Writer& w, const std::pair<K, V>& v) {
        Wire<std::remove_const_t<K>>::put(w, v.first);
        Wire<V>::put(w, v.second);
    }
    static std::pair<K, V> get(Reader& r) {
        auto first = Wire<std::remove_const_t<K>>::get(r);
        return {std::move(first), Wire<V>::get(r)};
    }
};
#ifdef _GLIBCXX_MAP
template <class K, class V, class C, class A> struct Wire<std::map<K, V, C, A>> : Keyed<std::map<K, V, C, A>> {};
#endif
#ifdef _GLIBCXX_UNORDERED_MAP
template <class K, class V, class H, class E, class A>
struct Wire<std::unordered_map<K, V, H, E, A>> : Keyed<std::unordered_map<K, V, H, E, A>> {};
#endif
#ifdef _GLIBCXX_OPTIONAL
template <class T> struct Wire<std::optional<T>> {
    static void put(Writer& w, const std::optional<T>& v) {
        Wire<bool>::put(w, v.has_value());
        if (v) Wire<T>::put(w, *v);
    }
    static std::optional<T> get(Reader& r) {
        if (Wire<bool>::get(r)) return Wire<T>::get(r);
        return std::nullopt;
    }
};
#endif
template <class T, std::size_t N> struct Wire<std::array<T, N>> {
    static void put(Writer& w, const std::array<T, N>& v) {
        for (const T& x : v) Wire<T>::put(w, x);
    }
    static std::array<T, N> get(Reader& r) {
        std::array<T, N> v;
        for (T& x : v) x = Wire<T>::get(r);
        return v;
    }
};
template <class... T> struct Wire<std::tuple<T...>> {
    static void put(Writer& w, const std::tuple<T...>& v) {
        std::apply([&](const T&... x) { (Wire<T>::put(w, x), ...); }, v);
    }
    static std::tuple<T...> get(Reader& r) { return std::tuple<T...>{Wire<T>::get(r)...}; }
};

inline bool move_all(bool out, int descriptor, char* at, std::size_t n) {
    while (n > 0) {
        const ssize_t done = out ? ::write(descriptor, at, n) : ::read(descriptor, at, n);
        if (done <= 0) return false;
        at += done;
        n -= static_cast<std::size_t>(done);
    }
    return true;
}
inline bool send(std::string bytes) {
    std::uint64_t n = bytes.size();
    return move_all(true, 4, reinterpret_cast<char*>(&n), sizeof n) && move_all(true, 4, &bytes[0], bytes.size());
}
inline bool receive(std::string& bytes) {
    std::uint64_t n = 0;
    if (!move_all(false, 3, reinterpret_cast<char*>(&n), sizeof n) || n > kLongest) return false;
    bytes.resize(n);
    return move_all(false, 3, &bytes[0], n);
}

template <class A>
constexpr bool kComesBack = std::is_lvalue_reference_v<A> && !std::is_const_v<std::remove_reference_t<A>>;
template <class A, class V>
void put_back(Writer& w, const V& v) {
    if constexpr (kComesBack<A>) Wire<std::decay_t<A>>::put(w, v);
}
template <class A, class V>
void get_back(Reader& r, V& v) {
    if constexpr (kComesBack<A>) v = Wire<std::decay_t<A>>::get(r);
}

/// What stands for the tested function where the tests are.
template <class Signature>
class Remote;
template <class R, class... A>
class Remote<R(A...)> {
  public:
    R operator()(A... arguments) const {
        Writer w;
        (Wire<std::decay_t<A>>::put(w, arguments), ...);
        Reader r;
        if (!send(std::move(w.bytes)) || !receive(r.bytes))
            throw Broken("the program ended before its tests did");
        const bool threw = Wire<bool>::get(r);
        if (threw) throw std::runtime_error("the program threw an exception");
        if constexpr (std::is_void_v<R>) {
            (get_back<A>(r, arguments), ...);
        } else {
            std::decay_t<R> result = Wire<std::decay_t<R>>::get(r);
            (get_back<A>(r, arguments), ...);
            return result;
        }
    }
};

/// The other side: answers calls until there are no more.
template <class R, class... A, class Function>
int serve(R (*)(A...), Function function) {
    Reader r;
    while (r.at = 0, receive(r.bytes)) {
        std::tuple<std::decay_t<A>...> arguments{Wire<std::decay_t<A>>::get(r)...};
        Writer w;
        try {
            Wire<bool>::put(w, false);
            std::apply(
                [&](auto&... x) {
                    if constexpr (std::is_void_v<R>)
                        function(static_cast<A&&>(x)...);
                    else
                        Wire<std::decay_t<R>>::put(w, function(static_cast<A&&>(x)...));
                    (put_back<A>(w, x), ...);
                },
                arguments);
        } catch (...) {
            w.bytes.clear();
            Wire<bool>::put(w, true);
        }
        if (!send(std::move(w.bytes))) break;
    }
    return 0;
}

}  // namespace gradus_wire
