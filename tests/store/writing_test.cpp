// SPDX-License-Identifier: Apache-2.0
// What can go wrong while a checkpoint is written, and which ones stay.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <set>

#include "../../src/store/hdf5.hpp"
#include "child_process.hpp"
#include "gradus/base/philox.hpp"
#include "store_fixture.hpp"

namespace gradus {
namespace {

namespace fs = std::filesystem;

std::set<std::string> names_in(const std::string& path) {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(path))
        names.insert(entry.path().filename().string());
    return names;
}

bool good(const std::string& directory) {
    return verify_checkpoint(directory, [](auto&) {});
}

std::string found_in(const std::string& run_dir) {
    return find_checkpoint(run_dir, [](auto&) {});
}

std::string write_error(CheckpointWriter& writer, std::int64_t step,
                        const std::vector<Slab>& slabs) {
    return message_of<CheckpointError>([&] {
        writer.write(step, slabs, {}, "");
        writer.finish();
    });
}

}  // namespace

BOOST_AUTO_TEST_SUITE(checkpoint_writing)

BOOST_AUTO_TEST_CASE(boxes_must_cover_and_not_overlap) {
    const Folder folder;
    Store store({.run_dir = folder.path, .background = false});
    const std::vector<float> v = ramp(100, 1);
    auto slab = [&](Shape global, Box box) {
        return Slab{.tensor = "weights/w", .global = global, .box = box, .data = v.data()};
    };
    struct Case {
        const char* reason;
        std::vector<Slab> slabs;
    };
    const Case cases[] = {
        {"gap", {slab({10, 10}, {{0, 0}, {9, 10}})}},
        {"gap", {slab({10, 10}, {{0, 0}, {10, 4}}), slab({10, 10}, {{0, 5}, {10, 5}})}},
        {"overlap", {slab({10, 10}, {{0, 0}, {6, 10}}), slab({10, 10}, {{5, 0}, {5, 10}})}},
        {"overlap", {slab({10, 10}, {{0, 0}, {10, 6}}), slab({10, 10}, {{0, 5}, {10, 5}})}},
        // As many elements as there are, and yet a gap.
        {"overlap", {slab({4, 4}, {{0, 0}, {2, 4}}), slab({4, 4}, {{1, 0}, {2, 4}})}},
        {"outside", {slab({10, 10}, {{5, 0}, {6, 10}})}},
        {"outside", {slab({10, 10}, {{0}, {10}})}},
        {"[10, 10]", {slab({10, 10}, {{0, 0}, {5, 10}}), slab({10, 5}, {{5, 0}, {5, 5}})}},
        {"no data", {{.tensor = "weights/w", .global = {1}, .box = {{0}, {1}}}}},
    };
    for (const Case& c : cases) {
        const std::string error = write_error(store.writer, 1, c.slabs);
        BOOST_TEST(contains(error, "weights/w"), c.reason << ": " << error);
        BOOST_TEST(contains(error, c.reason), c.reason << ": " << error);
        BOOST_TEST(names_in(folder.path).empty());
    }
    store.writer.write(1, {slab({10, 10}, {{0, 0}, {4, 10}}), slab({10, 10}, {{4, 0}, {6, 10}})},
                       {}, "");
    BOOST_TEST(good(folder / "chk0000001"));
}

BOOST_AUTO_TEST_CASE(the_newest_and_every_nth_stay) {
    const Folder folder;
    Store store({.run_dir = folder.path, .keep = 2, .keep_every = 10, .background = false});
    const std::vector<float> v = ramp(10, 1);
    for (int step = 2; step <= 26; step += 2)
        store.writer.write(step, {whole("w", {10}, v)}, {}, "");
    BOOST_TEST(
        (names_in(folder.path) ==
         std::set<std::string>{"chk0000010", "chk0000020", "chk0000024", "chk0000026", "latest"}));
    // Started again from 20: what was after it is of another run.
    store.writer.write(22, {whole("w", {10}, v)}, {}, "");
    BOOST_TEST((names_in(folder.path) ==
                std::set<std::string>{"chk0000010", "chk0000020", "chk0000022", "latest"}));
    BOOST_TEST(found_in(folder.path) == folder / "chk0000022");
}

BOOST_AUTO_TEST_CASE(a_step_written_again_replaces_the_first) {
    const Folder folder;
    Store store({.run_dir = folder.path, .background = true});
    const std::vector<float> v = ramp(10, 1), w = ramp(10, 2);
    store.writer.write(5, {whole("w", {10}, v)}, {}, "");
    store.writer.write(5, {whole("w", {10}, w)}, {}, "");
    store.writer.finish();
    BOOST_TEST((names_in(folder.path) == std::set<std::string>{"chk0000005", "latest"}));
    std::vector<float> back(10);
    CheckpointReader(folder / "chk0000005").read("w", {{0}, {10}}, back.data());
    BOOST_TEST((back == w));
}

BOOST_AUTO_TEST_CASE(what_a_killed_run_leaves_is_removed) {
    const Folder folder;
    Store store({.run_dir = folder.path, .background = false});
    const std::vector<float> v = ramp(10, 1);
    store.writer.write(5, {whole("w", {10}, v)}, {}, "");
    fs::create_directories(folder / "chk0000006.tmp/x");
    // Killed between two renames: the old folder is the only one of its step.
    fs::rename(folder / "chk0000005", folder / "chk0000005.old.tmp");
    write_file_atomically(folder / "latest.tmp", "chk");
    write_file_atomically(folder / "notes.tmp", "not ours");
    remove_unfinished(folder.path);
    BOOST_TEST(
        (names_in(folder.path) == std::set<std::string>{"chk0000005", "latest", "notes.tmp"}));
    BOOST_TEST(good(folder / "chk0000005"));
}

namespace {

std::int64_t resident_pages() {
    std::int64_t all = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> all >> resident;
    return resident;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_thousand_in_a_row_leave_nothing_behind) {
    for (const bool background : {false, true}) {
        const Folder folder;
        Store store({.run_dir = folder.path, .keep = 2, .background = background});
        const std::vector<float> v = ramp(20000, 1), w = ramp(100, 2);
        std::int64_t pages = 0;
        std::size_t descriptors = 0;
        for (int step = 1; step <= 1000; ++step) {
            store.writer.write(step, {whole("a/v", {20000}, v), whole("b/w", {100}, w)}, {{"step", step}}, "deck");
            store.writer.poll();
            if (step != 200) continue;
            store.writer.finish();
            pages = resident_pages();
            descriptors = names_in("/proc/self/fd").size();
        }
        store.writer.finish();
        BOOST_TEST((names_in(folder.path) == std::set<std::string>{"chk0000999", "chk0001000", "latest"}));
        BOOST_TEST(names_in("/proc/self/fd").size() == descriptors);
        BOOST_TEST_MESSAGE("pages after 200 checkpoints " << pages << ", after 1000 " << resident_pages());
        // 800 checkpoints that kept as much as an index each would be 100 times as much.
        BOOST_TEST(resident_pages() - pages < 256, "grew from " << pages << " to " << resident_pages() << " pages");
    }
}

BOOST_AUTO_TEST_CASE(one_that_cannot_be_stored_leaves_the_rest_and_the_next_succeeds) {
    const Folder folder;
    Store store({.run_dir = folder.path, .keep = 1, .background = true});
    const std::vector<float> v = ramp(10, 1);
    store.writer.write(1, {whole("w", {10}, v)}, {}, "");
    store.writer.finish();
    // `latest` cannot be written: the commit fails at its last step.
    fs::create_directories(folder / "latest.tmp");
    BOOST_TEST(contains(message_of<NotStored>([&] {
                   store.writer.write(2, {whole("w", {10}, v)}, {}, "");
                   store.writer.finish();
               }),
                        "the checkpoint of step 2 could not be stored"));
    BOOST_TEST(found_in(folder.path) == folder / "chk0000001");
    fs::remove(folder / "latest.tmp");
    store.writer.write(3, {whole("w", {10}, v)}, {}, "");
    store.writer.finish();
    BOOST_TEST(found_in(folder.path) == folder / "chk0000003");
    BOOST_TEST((names_in(folder.path) == std::set<std::string>{"chk0000003", "latest"}));
}

BOOST_AUTO_TEST_CASE(a_damaged_one_is_set_aside) {
    const Folder folder;
    const auto silent = [](auto&) {};
    Store store({.run_dir = folder.path, .background = false});
    const std::vector<float> v = ramp(10, 1);
    store.writer.write(1, {whole("w", {10}, v)}, {}, "");
    BOOST_TEST(set_aside(folder / "chk0000001", silent) == "");
    BOOST_TEST((names_in(folder.path) == std::set<std::string>{"chk0000001", "latest"}));
    store.writer.write(2, {whole("w", {10}, v)}, {}, "");
    BOOST_TEST(set_aside(folder / "chk0000002", silent) == folder / "chk0000001");
    BOOST_TEST((names_in(folder.path) == std::set<std::string>{"chk0000001", "chk0000002.damaged", "latest"}));
}

BOOST_AUTO_TEST_CASE(a_limit_on_the_file_size) {
    // The limit gives EFBIG at whichever write crosses it: in HDF5's headers, in the data, at the
    // end.
    const std::vector<float> v = ramp(1 << 20, 1);
    for (const bool background : {false, true})
        for (const rlim_t limit :
             {rlim_t{0}, rlim_t{100}, rlim_t{3000}, rlim_t{1} << 20, rlim_t{4194303}}) {
            const Folder folder;
            const ChildResult result = in_child([&]() -> std::string {
                Store store({.run_dir = folder.path, .background = background});
                const std::vector<Slab> slabs = {whole("w", {1 << 20}, v)};
                store.writer.write(1, slabs, {}, "");
                store.writer.finish();
                signal(SIGXFSZ, SIG_IGN);
                rlimit old = {};
                getrlimit(RLIMIT_FSIZE, &old);
                const rlimit small = {limit, old.rlim_max};
                setrlimit(RLIMIT_FSIZE, &small);
                const std::string error = write_error(store.writer, 2, slabs);
                setrlimit(RLIMIT_FSIZE, &old);
                if (names_in(folder.path) != std::set<std::string>{"chk0000001", "latest"})
                    return "left something";
                if (found_in(folder.path) != folder / "chk0000001") return "lost the first";
                store.writer.write(3, slabs, {}, "");  // and goes on once there is room
                store.writer.finish();
                return found_in(folder.path) == folder / "chk0000003" ? error : "does not go on";
            });
            BOOST_TEST(result.status == 0, "limit " << limit << ": ended with " << result.status);
            BOOST_TEST(contains(result.text, "chk0000002.tmp/shard_00000.h5"), result.text);
            BOOST_TEST(contains(result.text, "File too large"), result.text);
            BOOST_TEST(good(folder / "chk0000001"));
            BOOST_TEST(good(folder / "chk0000003"));
        }
}

namespace {

/// A small file system of this process alone, where that is allowed.
bool mount_small(const std::string& path, const char* options) {
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    return mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           mount("tmpfs", path.c_str(), "tmpfs", 0, options) == 0;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_full_disk) {
    const Folder folder;
    const std::vector<float> v = ramp(2 << 20, 1), small = ramp(1000, 2);
    const ChildResult result = in_child([&]() -> std::string {
        if (!mount_small(folder.path, "size=24m")) return "not permitted";
        Store store({.run_dir = folder.path, .keep = 9, .background = true});
        store.writer.write(1, {whole("w", {2 << 20}, v)}, {}, "");
        store.writer.finish();
        // The check before: 8 MiB do not fit beside 8 MiB and 10 MiB of something else.
        const int filler = open((folder / "filler").c_str(), O_CREAT | O_RDWR, 0600);
        if (posix_fallocate(filler, 0, 10 << 20) != 0) return "no filler";
        const std::string before = write_error(store.writer, 2, {whole("w", {2 << 20}, v)});
        if (names_in(folder.path) != std::set<std::string>{"chk0000001", "filler", "latest"})
            return "left something: " + before;
        // The disk fills up after the check, while the writer waits for the lock.
        if (ftruncate(filler, 0) != 0) return "no truncate";
        {
            const h5::Lock lock;
            store.writer.write(3, {whole("w", {2 << 20}, v)}, {}, "");
            for (off_t at = 0; posix_fallocate(filler, at, 4096) == 0;) at += 4096;
        }
        const std::string during = message_of<CheckpointError>([&] { store.writer.finish(); });
        if (names_in(folder.path) != std::set<std::string>{"chk0000001", "filler", "latest"})
            return "left something: " + during;
        if (!good(folder / "chk0000001")) return "damaged the first";
        close(filler);
        fs::remove(folder / "filler");
        store.writer.write(4, {whole("w", {1000}, small)}, {}, "");
        store.writer.finish();
        if (found_in(folder.path) != folder / "chk0000004") return "does not go on";
        return before + "\n" + during;
    });
    BOOST_TEST(result.status == 0);
    if (result.text == "not permitted") {
        BOOST_TEST_MESSAGE("skipped: mounting a tmpfs is not permitted here");
        return;
    }
    BOOST_TEST(contains(result.text, "not enough space"), result.text);
    BOOST_TEST(contains(result.text, "(9445376 bytes)"), result.text);  // 8 MiB + 1 MiB + 8 KiB
    BOOST_TEST(contains(result.text, "chk0000003.tmp/shard_00000.h5: cannot write: No space left"),
               result.text);
}

BOOST_AUTO_TEST_CASE(a_folder_that_cannot_be_written) {
    const Folder folder;
    write_file_atomically(folder / "run", "a file where the run directory should be");
    Store store({.run_dir = folder / "run", .background = false});
    const std::vector<float> v = ramp(10, 1);
    const std::string error = write_error(store.writer, 1, {whole("w", {10}, v)});
    BOOST_TEST(contains(error, "run/chk0000001.tmp"), error);
}

BOOST_AUTO_TEST_CASE(killed_at_every_change_to_a_file) {
    const std::vector<float> v = ramp(300000, 1), w = ramp(300000, 2);
    struct Case {
        const char* name;
        int keep;
        std::int64_t next;
    };
    for (const Case c : {Case{"beside", 5, 2}, Case{"pruning", 1, 2}, Case{"again", 5, 1}}) {
        int points = 0, old_found = 0, new_found = 0;
        for (Death death = Death::killed; death == Death::killed; ++points) {
            const Folder folder;
            {
                Store store({.run_dir = folder.path, .background = false});
                store.writer.write(1, {whole("w", {300000}, v)}, {{"number", 1}}, "");
            }
            death = killed_at(points, [&] {
                Store store({.run_dir = folder.path, .keep = c.keep, .background = false});
                store.writer.write(c.next, {whole("w", {300000}, w)}, {{"number", 2}}, "");
            });
            if (death == Death::not_traceable) {
                BOOST_TEST_MESSAGE("skipped: tracing a child is not permitted here");
                return;
            }
            for (const bool cleaned : {false, true}) {
                if (cleaned) remove_unfinished(folder.path);
                const std::string found = found_in(folder.path);
                BOOST_TEST(!found.empty(), c.name << ", point " << points);
                BOOST_TEST(good(found), c.name << ", point " << points);
                const CheckpointReader reader(found);
                std::vector<float> back(300000);
                reader.read("w", {{0}, {300000}}, back.data());
                const bool is_new = reader.state()["number"] == 2;
                BOOST_TEST((back == (is_new ? w : v)), c.name << ", point " << points);
                if (cleaned) (is_new ? new_found : old_found) += 1;
            }
            for (const std::string& name : names_in(folder.path))
                BOOST_TEST(!contains(name, ".tmp"), name);
        }
        BOOST_TEST_MESSAGE(c.name << ": " << points << " points, old found " << old_found
                                  << ", new " << new_found);
        BOOST_TEST(old_found > 10);
        BOOST_TEST(new_found > 3);
    }
}

BOOST_AUTO_TEST_CASE(killed_at_any_time_with_a_background_thread) {
    const Folder folder;
    const std::vector<float> v = ramp(200000, 1);
    std::int64_t last = 0;
    for (std::uint32_t round = 0; round < 20; ++round) {
        std::fflush(nullptr);
        const pid_t child = fork();
        BOOST_REQUIRE(child >= 0);
        if (child == 0) {
            Store store({.run_dir = folder.path, .background = true}, 800000);
            for (std::int64_t step = last + 1;; ++step) {
                store.writer.write(step, {whole("w", {200000}, v)}, {}, "");
                store.writer.poll();
            }
        }
        const double wait = random_uniform({.seed = 3, .stream = Stream::test, .position = round});
        usleep(static_cast<useconds_t>(2000 + wait * 60000));
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        const std::string found = found_in(folder.path);
        if (found.empty()) {
            BOOST_TEST(last == 0);
            continue;
        }
        BOOST_TEST(good(found));
        const std::int64_t step = CheckpointReader(found).step();
        BOOST_TEST(step >= last);
        last = step;
        remove_unfinished(folder.path);
    }
    BOOST_TEST(last > 20);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace gradus
