// SPDX-License-Identifier: Apache-2.0
// Included behind a program's own headers: values of boost::any, where it uses them.
#ifdef BOOST_ANY_INCLUDED
namespace gradus_wire {
template <>
struct Wire<boost::any> {
    template <class... T>
    struct Kinds {
        static void put(Writer& w, const boost::any& v) {
            int kind = 0;
            bool found = v.empty();
            ((found = found || (++kind, v.type() == typeid(T))), ...);
            if (!found) throw Broken("a value of boost::any has a type that cannot be passed");
            if (v.empty()) kind = 0;
            Wire<int>::put(w, kind);
            int at = 0;
            ((++at == kind ? Wire<T>::put(w, boost::any_cast<T>(v)) : void()), ...);
        }
        static boost::any get(Reader& r) {
            const int kind = Wire<int>::get(r);
            boost::any v;
            int at = 0;
            ((++at == kind ? void(v = Wire<T>::get(r)) : void()), ...);
            return v;
        }
    };
    using All = Kinds<int, double, std::string, bool, char, float, long, long long, unsigned, std::vector<int>,
                      std::vector<double>, std::vector<std::string>, std::list<boost::any>, std::vector<boost::any>>;
    static void put(Writer& w, const boost::any& v) { All::put(w, v); }
    static boost::any get(Reader& r) { return All::get(r); }
};
}  // namespace gradus_wire
#endif
