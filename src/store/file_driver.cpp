// SPDX-License-Identifier: Apache-2.0
// An HDF5 file driver over POSIX calls (HDF5 reference manual, "Virtual File Layer").
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "hdf5.hpp"
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

namespace gradus::h5 {
namespace {

/// What the driver is given with the access properties.
struct Request {
    FileStatus* status;
};

struct OpenFile {
    H5FD_t head;  // the library's own fields come first
    int descriptor;
    dev_t device;
    ino_t inode;
    haddr_t allocated;  // the library's end of the file
    haddr_t end;        // what it has been told is on the disk
    FileStatus* status;
};

OpenFile& self(H5FD_t* file) {
    return *reinterpret_cast<OpenFile*>(file);
}
const OpenFile& self(const H5FD_t* file) {
    return *reinterpret_cast<const OpenFile*>(file);
}

H5FD_t* open(const char* name, unsigned flags, hid_t access, haddr_t) {
    const auto* request = static_cast<const Request*>(H5Pget_driver_info(access));
    FileStatus* status = request == nullptr ? nullptr : request->status;
    const int mode = (flags & H5F_ACC_RDWR ? O_RDWR : O_RDONLY) |
                     (flags & H5F_ACC_TRUNC ? O_TRUNC : 0) | (flags & H5F_ACC_CREAT ? O_CREAT : 0) |
                     (flags & H5F_ACC_EXCL ? O_EXCL : 0);
    const int descriptor = ::open(name, mode | O_CLOEXEC, 0644);
    struct stat found = {};
    if (descriptor < 0 || ::fstat(descriptor, &found) != 0) {
        if (status != nullptr) status->error = errno;
        if (descriptor >= 0) ::close(descriptor);
        return nullptr;
    }
    if (status != nullptr) status->error = 0;  // the library tries without O_CREAT first
    auto file = std::make_unique<OpenFile>();
    file->descriptor = descriptor;
    file->device = found.st_dev;
    file->inode = found.st_ino;
    file->end = static_cast<haddr_t>(found.st_size);
    file->status = status;
    return &file.release()->head;
}

herr_t close(H5FD_t* base) {
    const std::unique_ptr<OpenFile> file(&self(base));
    Descriptor descriptor(file->descriptor);
    if (file->status != nullptr) file->status->descriptor = std::move(descriptor);
    return 0;
}

int compare(const H5FD_t* a, const H5FD_t* b) {
    const OpenFile &x = self(a), &y = self(b);
    if (x.device != y.device) return x.device < y.device ? -1 : 1;
    return x.inode == y.inode ? 0 : x.inode < y.inode ? -1 : 1;
}

herr_t query(const H5FD_t*, unsigned long* flags) {
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

haddr_t get_allocated(const H5FD_t* file, H5FD_mem_t) {
    return self(file).allocated;
}
herr_t set_allocated(H5FD_t* file, H5FD_mem_t, haddr_t address) {
    self(file).allocated = address;
    return 0;
}
haddr_t get_end(const H5FD_t* file, H5FD_mem_t) {
    return self(file).end;
}

herr_t read(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t size, void* buffer) {
    auto* to = static_cast<char*>(buffer);
    while (size > 0) {
        const ssize_t n = ::pread(self(file).descriptor, to, size, static_cast<off_t>(address));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            if (self(file).status != nullptr) self(file).status->error = errno;
            return -1;
        }
        if (n == 0) {  // the library may read past the end and expects zeros there
            std::fill(to, to + size, '\0');
            return 0;
        }
        to += n;
        address += static_cast<haddr_t>(n);
        size -= static_cast<std::size_t>(n);
    }
    return 0;
}

/// After a failure everything is taken as written: only so can the library close the file.
bool failed(const OpenFile& file) {
    return file.status != nullptr && file.status->error != 0;
}
herr_t fail(OpenFile& file, int error) {
    if (file.status == nullptr) return -1;
    file.status->error = error;
    return 0;
}

herr_t write(H5FD_t* base, H5FD_mem_t, hid_t, haddr_t address, std::size_t size,
             const void* buffer) {
    OpenFile& file = self(base);
    const auto* from = static_cast<const char*>(buffer);
    file.end = std::max(file.end, address + size);
    while (size > 0 && !failed(file)) {
        const ssize_t n = ::pwrite(file.descriptor, from, size, static_cast<off_t>(address));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fail(file, n < 0 ? errno : ENOSPC);
        from += n;
        address += static_cast<haddr_t>(n);
        size -= static_cast<std::size_t>(n);
    }
    return 0;
}

herr_t truncate(H5FD_t* base, hid_t, hbool_t) {
    OpenFile& file = self(base);
    if (file.allocated == file.end) return 0;
    file.end = file.allocated;
    if (!failed(file) && ::ftruncate(file.descriptor, static_cast<off_t>(file.allocated)) != 0)
        return fail(file, errno);
    return 0;
}

H5FD_class_t driver_class() {
    H5FD_class_t driver = {};
#if H5_VERSION_GE(1, 13, 0)
    driver.version = H5FD_CLASS_VERSION;
    driver.value = static_cast<H5FD_class_value_t>(600);  // 512 and above are free for applications
#endif
    driver.name = "gradus";
    driver.maxaddr = (haddr_t{1} << 62) - 1;
    driver.fc_degree = H5F_CLOSE_STRONG;
    driver.fapl_size = sizeof(Request);
    driver.open = open;
    driver.close = close;
    driver.cmp = compare;
    driver.query = query;
    driver.get_eoa = get_allocated;
    driver.set_eoa = set_allocated;
    driver.get_eof = get_end;
    driver.read = read;
    driver.write = write;
    driver.truncate = truncate;
    const H5FD_mem_t map[H5FD_MEM_NTYPES] = H5FD_FLMAP_DICHOTOMY;
    std::copy(std::begin(map), std::end(map), std::begin(driver.fl_map));
    return driver;
}

}  // namespace

void CloseDescriptor::operator()(int descriptor) const {
    ::close(descriptor);
}

Properties file_access(FileStatus* status) {
    Lock lock;
    const H5FD_class_t driver = driver_class();
    const Handle<H5FDunregister> id(check(H5FDregister(&driver)));
    Properties access(check(H5Pcreate(H5P_FILE_ACCESS)));
    const Request request{status};
    check(H5Pset_driver(access.get(), id.get(), &request));
    return access;
}

}  // namespace gradus::h5
