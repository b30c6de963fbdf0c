// SPDX-License-Identifier: Apache-2.0
#include "hdf5.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace gradus::h5 {
namespace {

std::recursive_mutex& library_mutex() {
    static std::recursive_mutex mutex;  // the library is one for the process, so is its guard
    return mutex;
}

/// "could not open the dataset: object not found": the outermost and the innermost cause.
std::string stack_text() {
    std::vector<std::string> lines;
    H5Ewalk2(
        H5E_DEFAULT, H5E_WALK_DOWNWARD,
        [](unsigned, const H5E_error2_t* entry, void* out) -> herr_t {
            if (entry->desc != nullptr && *entry->desc != '\0')
                static_cast<std::vector<std::string>*>(out)->emplace_back(entry->desc);
            return 0;
        },
        &lines);
    if (lines.empty()) return "unknown error";
    return lines.size() == 1 ? lines.front() : lines.front() + ": " + lines.back();
}

}  // namespace

Lock::Lock() : lock_(library_mutex()) {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Lock::~Lock() { H5Eclear2(H5E_DEFAULT); }

hid_t check(hid_t id, std::source_location where) {
    if (id < 0)
        throw Hdf5Error(fmt::format("HDF5: {} (in {}, line {})", stack_text(),
                                    where.function_name(), where.line()));
    return id;
}

OutputFile::OutputFile(const std::string& path, hsize_t user_block) {
    Lock lock;
    const Properties access = file_access(&status_);
    // The newer format has checksums over its own structures and refuses files never closed.
    check(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110));
    const Properties creation = timeless(H5P_FILE_CREATE);
    if (user_block > 0)
        check(H5Pset_userblock(creation.get(), user_block));
    else  // large data sets begin at a page
        check(H5Pset_alignment(access.get(), 1 << 16, 1 << 12));
    const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get());
    if (id < 0) check_written();
    file_ = File(check(id));
}

void OutputFile::check_written() const {
    require<Hdf5Error>(status_.error == 0, "cannot write: {}", std::strerror(status_.error));
}

void OutputFile::close() {
    {
        Lock lock;
        const herr_t status = H5Fclose(file_.release());
        check_written();
        check(status);
    }
    // Outside the lock: it can take seconds.
    if (::fsync(status_.descriptor.get()) != 0) status_.error = errno;
    check_written();
    status_.descriptor.reset();
}

File open_file(const std::string& path) {
    Lock lock;
    require<Hdf5Error>(::access(path.c_str(), R_OK) == 0, "cannot open: {}", std::strerror(errno));
    return File(check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, file_access(nullptr).get())));
}

Properties timeless(hid_t kind) {
    Properties properties(check(H5Pcreate(kind)));
    check(H5Pset_obj_track_times(properties.get(), false));
    return properties;
}

Group make_group(hid_t parent, const std::string& path) {
    Group group(check(H5Gopen2(parent, ".", H5P_DEFAULT)));
    for (std::size_t at = 0; at < path.size();) {
        const std::size_t end = std::min(path.find('/', at), path.size());
        const std::string name = path.substr(at, end - at);
        at = end + 1;
        if (name.empty()) continue;
        const bool there = check(H5Lexists(group.get(), name.c_str(), H5P_DEFAULT)) > 0;
        group = Group(check(there ? H5Gopen2(group.get(), name.c_str(), H5P_DEFAULT)
                                  : H5Gcreate2(group.get(), name.c_str(), H5P_DEFAULT,
                                               timeless(H5P_GROUP_CREATE).get(), H5P_DEFAULT)));
    }
    return group;
}

namespace {

/// A small floating-point type: sign, exponent and mantissa in this order from the top.
Type float_type(std::size_t bytes, std::size_t exponent_bits, std::size_t bias) {
    const std::size_t bits = 8 * bytes, mantissa_bits = bits - 1 - exponent_bits;
    Type type(check(H5Tcopy(H5T_IEEE_F32LE)));
    check(H5Tset_fields(type.get(), bits - 1, mantissa_bits, exponent_bits, 0, mantissa_bits));
    check(H5Tset_size(type.get(), bytes));
    check(H5Tset_ebias(type.get(), bias));
    return type;
}

}  // namespace

Type type_of(DType dtype) {
    switch (dtype) {
        case DType::i32:
            return Type(check(H5Tcopy(H5T_STD_I32LE)));
        case DType::bf16:
            return float_type(2, 8, 127);
        case DType::f16:
            return float_type(2, 5, 15);
        case DType::f8_e4m3:
            return float_type(1, 4, 7);
        case DType::f32:
            break;
    }
    return Type(check(H5Tcopy(H5T_IEEE_F32LE)));
}

Space simple_space(const std::vector<hsize_t>& dims) {
    if (dims.empty()) return Space(check(H5Screate(H5S_SCALAR)));
    return Space(check(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr)));
}

Dataset create_dataset(hid_t parent, const std::string& name, hid_t type,
                       const std::vector<hsize_t>& dims) {
    const Properties properties = timeless(H5P_DATASET_CREATE);
    check(H5Pset_fill_time(properties.get(), H5D_FILL_TIME_NEVER));
    const bool empty = std::find(dims.begin(), dims.end(), hsize_t{0}) != dims.end();
    if (!empty) check(H5Pset_alloc_time(properties.get(), H5D_ALLOC_TIME_EARLY));
    return Dataset(check(H5Dcreate2(parent, name.c_str(), type, simple_space(dims).get(),
                                    H5P_DEFAULT, properties.get(), H5P_DEFAULT)));
}

Dataset open_dataset(hid_t parent, const std::string& name) {
    const hid_t id = H5Dopen2(parent, name.c_str(), H5P_DEFAULT);
    if (id < 0) throw Hdf5Error(fmt::format("no dataset \"{}\": {}", name, stack_text()));
    return Dataset(id);
}

std::vector<hsize_t> dims_of(hid_t dataset) {
    const Space space(check(H5Dget_space(dataset)));
    std::vector<hsize_t> dims(
        static_cast<std::size_t>(check(H5Sget_simple_extent_ndims(space.get()))));
    check(H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr));
    return dims;
}

template <>
hid_t native_type<std::int64_t>() {
    return H5T_STD_I64LE;
}
template <>
hid_t native_type<std::int32_t>() {
    return H5T_STD_I32LE;
}
template <>
hid_t native_type<std::uint64_t>() {
    return H5T_STD_U64LE;
}
template <>
hid_t native_type<double>() {
    return H5T_IEEE_F64LE;
}
template <>
hid_t native_type<float>() {
    return H5T_IEEE_F32LE;
}

template <class T>
void write_column(hid_t parent, const std::string& name, std::span<const T> values,
                  std::vector<hsize_t> dims) {
    if (dims.empty()) dims = {values.size()};
    const Dataset dataset = create_dataset(parent, name, native_type<T>(), dims);
    if (!values.empty())
        check(H5Dwrite(dataset.get(), native_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT,
                       values.data()));
}

template <class T>
std::vector<T> read_column(hid_t parent, const std::string& name) {
    const Dataset dataset = open_dataset(parent, name);
    std::size_t n = 1;
    for (const hsize_t dim : dims_of(dataset.get())) n *= dim;
    std::vector<T> values(n);
    if (n > 0)
        check(
            H5Dread(dataset.get(), native_type<T>(), H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()));
    return values;
}

template void write_column(hid_t, const std::string&, std::span<const std::int64_t>,
                           std::vector<hsize_t>);
template void write_column(hid_t, const std::string&, std::span<const std::int32_t>,
                           std::vector<hsize_t>);
template void write_column(hid_t, const std::string&, std::span<const std::uint64_t>,
                           std::vector<hsize_t>);
template void write_column(hid_t, const std::string&, std::span<const double>,
                           std::vector<hsize_t>);
template void write_column(hid_t, const std::string&, std::span<const float>, std::vector<hsize_t>);
template std::vector<std::int64_t> read_column(hid_t, const std::string&);
template std::vector<std::int32_t> read_column(hid_t, const std::string&);
template std::vector<std::uint64_t> read_column(hid_t, const std::string&);
template std::vector<double> read_column(hid_t, const std::string&);
template std::vector<float> read_column(hid_t, const std::string&);

namespace {

Type string_type(std::size_t size) {
    Type type(check(H5Tcopy(H5T_C_S1)));
    check(H5Tset_size(type.get(), std::max<std::size_t>(1, size)));
    check(H5Tset_strpad(type.get(), H5T_STR_NULLPAD));
    check(H5Tset_cset(type.get(), H5T_CSET_UTF8));
    return type;
}

/// All strings of a dataset with their padding, one after the other; their length in `size`.
std::string read_padded(hid_t parent, const std::string& name, std::size_t& size) {
    const Dataset dataset = open_dataset(parent, name);
    const Type type(check(H5Dget_type(dataset.get())));
    require<Hdf5Error>(
        H5Tget_class(type.get()) == H5T_STRING && H5Tis_variable_str(type.get()) == 0,
        "dataset \"{}\" holds no strings of fixed length", name);
    size = H5Tget_size(type.get());
    std::size_t n = 1;
    for (const hsize_t dim : dims_of(dataset.get())) n *= dim;
    std::string bytes(n * size, '\0');
    if (n > 0)
        check(H5Dread(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()));
    return bytes;
}

}  // namespace

void write_strings(hid_t parent, const std::string& name, const std::vector<std::string>& values) {
    std::size_t size = 1;
    for (const std::string& value : values) size = std::max(size, value.size());
    std::string bytes(size * values.size(), '\0');
    for (std::size_t i = 0; i < values.size(); ++i) values[i].copy(&bytes[i * size], size);
    const Type type = string_type(size);
    const Dataset dataset = create_dataset(parent, name, type.get(), {values.size()});
    if (!values.empty())
        check(H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()));
}

std::vector<std::string> read_strings(hid_t parent, const std::string& name) {
    std::size_t size = 0;
    const std::string bytes = read_padded(parent, name, size);
    std::vector<std::string> values;
    for (std::size_t at = 0; at < bytes.size(); at += size) {
        std::string value = bytes.substr(at, size);
        value.resize(value.find_last_not_of('\0') + 1);
        values.push_back(std::move(value));
    }
    return values;
}

void write_text(hid_t parent, const std::string& name, const std::string& text) {
    const std::string bytes = text.empty() ? std::string(1, '\0') : text;
    const Type type = string_type(bytes.size());
    const Dataset dataset = create_dataset(parent, name, type.get(), {});
    check(H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()));
}

std::string read_text(hid_t parent, const std::string& name) {
    std::size_t size = 0;
    return read_padded(parent, name, size);
}

void write_attribute(hid_t object, const std::string& name, std::int64_t value) {
    const Attribute attribute(check(H5Acreate2(object, name.c_str(), H5T_STD_I64LE,
                                               simple_space({}).get(), H5P_DEFAULT, H5P_DEFAULT)));
    check(H5Awrite(attribute.get(), H5T_STD_I64LE, &value));
}

std::int64_t read_attribute(hid_t object, const std::string& name) {
    const hid_t id = H5Aopen(object, name.c_str(), H5P_DEFAULT);
    if (id < 0) throw Hdf5Error(fmt::format("no attribute \"{}\": {}", name, stack_text()));
    const Attribute attribute(id);
    std::int64_t value = 0;
    check(H5Aread(attribute.get(), H5T_STD_I64LE, &value));
    return value;
}

}  // namespace gradus::h5
