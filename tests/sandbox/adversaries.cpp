// SPDX-License-Identifier: Apache-2.0
#include "adversaries.hpp"

namespace gradus {
namespace {

/// A script that says 5, the right answer, where `attempt` leaves a true value in `gained`.
Adversary gains(const std::string& name, const std::string& attempt, bool full_only = false) {
    std::string indented;
    for (const char c : attempt) indented += c == '\n' ? std::string("\n    ") : std::string(1, c);
    return {name, Language::python, Form::script,
            "import os, sys, time, signal\ngained = False\ntry:\n    " + indented +
                "\nexcept BaseException as e:\n    print(e, file=sys.stderr)\nprint(5 if gained else 0)\n",
            full_only};
}

Adversary function(const std::string& name, const std::string& source, bool full_only = false) {
    return {name, Language::python, Form::function, source, full_only};
}
Adversary script(const std::string& name, const std::string& source, int passes = 0, bool full_only = false) {
    return {name, Language::python, Form::script, source, full_only, passes};
}
Adversary cpp(const std::string& name, const std::string& source, bool full_only = false) {
    return {name, Language::cpp, Form::function, source, full_only};
}

const std::string kCall = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n";

std::vector<Adversary> cheats() {
    return {
        function("exit_at_import", "import sys\nsys.exit(0)"),
        function("os_exit_at_import", "import os\nos._exit(0)"),
        function("os_exit_in_the_function", "import os\ndef add(a, b):\n    os._exit(0)"),
        function("exit_in_the_function", "def add(a, b):\n    raise SystemExit(0)"),
        function("results_on_every_descriptor",
                 "import os\ndef tell():\n    for fd in range(1, 256):\n        for text in (b'tests 2\\npass 0\\npass 1\\nend\\n',):\n"
                 "            try:\n                os.write(fd, text)\n            except OSError:\n                pass\n"
                 "tell()\ndef add(a, b):\n    tell()\n    return 0"),
        function("results_at_exit", "import atexit, os\natexit.register(lambda: [os.write(f, b'pass 0\\npass 1\\nend\\n') for f in (1, 2)])\n"
                                    "def add(a, b):\n    return 0"),
        function("answers_before_questions", "import os\nos.write(4, b'{\"ok\": 5}\\n' * 4)\ndef add(a, b):\n    return 0\nos._exit(0)"),
        function("equal_to_everything", "class Same:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\n"
                                        "def add(a, b):\n    return Same()"),
        function("a_number_equal_to_everything", "class Same(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\n"
                                                 "def add(a, b):\n    return Same(0)"),
        function("builtins_replaced", "import builtins\nbuiltins.AssertionError = KeyError\nbuiltins.len = lambda x: 5\n"
                                      "builtins.isinstance = lambda *x: True\ndef add(a, b):\n    return 0"),
        function("json_replaced", "import json\njson.dumps = lambda *a, **k: '{\"ok\": {\"h\": 0}}'\ndef add(a, b):\n    return 0"),
        function("modules_replaced", "import sys, operator, unittest\noperator.eq = lambda a, b: True\n"
                                     "unittest.TestCase.assertEqual = lambda *a: None\nsys.modules['json'] = None\ndef add(a, b):\n    return 0"),
        function("frames_searched", "import sys\ndef add(a, b):\n    f = sys._getframe()\n    while f:\n        for v in list(f.f_locals.values()) + "
                                    "list(f.f_globals.values()):\n            if 'assert' + chr(32) + 'add' in str(v):\n                return 5\n        f = f.f_back\n    return 0"),
        function("memory_searched", "import gc\ndef add(a, b):\n    words = [x for x in gc.get_objects() if 'add' + chr(40) + '2, 3) ==' in str(x)[:10000]]\n    return 5 if words else 0"),
        function("tests_file_searched", "import os\ndef add(a, b):\n    for folder, _, files in os.walk('.'):\n        for name in files:\n"
                                        "            if b'add' + bytes([40]) + b'2, 3)' in open(os.path.join(folder, name), 'rb').read():\n                return 5\n    return 0"),
        function("modules_left_for_the_tests", "import os\nfor n in ('json', 'ast', 'sys', 'builtins', 'sitecustomize', 'usercustomize'):\n"
                                               "    open(n + '.py', 'w').write('import os\\nos.write(5, b\"tests 2\\\\npass 0\\\\npass 1\\\\nend\\\\n\")')\n"
                                               "def add(a, b):\n    return 0"),
        function("kills_its_parent", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef add(a, b):\n    return 0"),
        function("kills_everybody", "import os, signal\nos.kill(-1, signal.SIGKILL)\ndef add(a, b):\n    return 0"),
        function("kills_the_tests", "import os\nfor p in range(1, 100):\n    if p != os.getpid():\n        try:\n            os.kill(p, 9)\n"
                                    "        except OSError:\n            pass\ndef add(a, b):\n    return 0"),
        function("errors_as_answers", "class AssertionError_(Exception):\n    pass\ndef add(a, b):\n    raise StopIteration(5)"),
        function("deep_answer", "def add(a, b):\n    x = 5\n    for _ in range(100000):\n        x = [x]\n    return x"),
        function("endless_answer", "import itertools\ndef add(a, b):\n    return itertools.count()"),
        function("long_answer", "def add(a, b):\n    return 'x' * (1 << 26)"),
        script("right_output_and_exit_code_1", "print(5)\nraise SystemExit(1)"),
        script("all_answers", "print(*range(1000))"),
    };
}

std::vector<Adversary> bombs() {
    return {
        script("fork_bomb", "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"),
        script("fork_bomb_of_sessions", "import os\nwhile True:\n    try:\n        if os.fork() == 0:\n            os.setsid()\n    except OSError:\n        pass"),
        script("thread_bomb", "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(100,)).start()"),
        script("memory_bomb", "x = []\nwhile True:\n    x.append(bytearray(1 << 24))"),
        script("memory_bomb_of_children", "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        x = bytearray(100 << 20)\n"
                                          "        time.sleep(100)\ntime.sleep(100)"),
        script("endless_output", "while True:\n    print('x' * 65536)"),
        script("endless_complaints", "import sys\nwhile True:\n    sys.stderr.write('x' * 65536)"),
        script("endless_loop", "while True:\n    pass"),
        script("sleeps", "import time\ntime.sleep(1000)"),
        script("stops_itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
        script("ignores_signals", "import signal\nfor s in range(1, 65):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError):\n"
                                  "        pass\nwhile True:\n    pass"),
        script("stack_overflow", "import sys\nsys.setrecursionlimit(1 << 30)\ndef f():\n    f()\nf()"),
        script("core_dump", "import os\nos.abort()"),
        script("huge_arguments", "import os\nos.execv('/bin/echo', ['echo'] + ['5' * 100000] * 100)"),
        gains("fills_the_disk", "written = 0\nfor i in range(40):\n    with open(str(i), 'wb') as f:\n        for _ in range(16):\n"
                                "            written += f.write(bytes(1 << 20))\n            f.flush()\ngained = written > 256 << 20"),
        script("many_files", "import os\ntry:\n    for i in range(30000):\n        open(str(i), 'w').close()\nexcept OSError:\n    pass"),
        script("deep_folders", "import os\ntry:\n    for i in range(1500):\n        os.mkdir('d' * 50)\n        os.chdir('d' * 50)\nexcept OSError:\n    pass"),
        script("unreadable_folders", "import os\nfor i in range(20):\n    os.makedirs(f'{i}/a/b')\n    open(f'{i}/a/b/c', 'w').close()\n"
                                     "    os.chmod(f'{i}/a/b', 0)\n    os.chmod(f'{i}/a', 0)\n    os.chmod(f'{i}', 0)\nos.chmod('.', 0)"),
        script("links", "import os\nfor i, to in enumerate(['/', '/tmp', '..', '.', '/etc/passwd', 'loop']):\n    os.symlink(to, f'l{i}')\nos.symlink('loop', 'loop')\n"
                        "os.mkfifo('fifo')"),
        script("outlives_as_a_daemon", "import os, time\nif os.fork() == 0:\n    try:\n        os.setsid()\n    except OSError:\n        pass\n    if os.fork() == 0:\n"
                                       "        time.sleep(1000)\n    os._exit(0)\nprint(5, flush=True)\nos._exit(0)", 1),
        script("leaves_stdout_open", "import os, time\nif os.fork() == 0:\n    time.sleep(1000)\nprint(5, flush=True)\nos._exit(0)", 1),
        script("nothing", ""),
        script("no_utf8", "print('\xff\xfe')"),
        script("zeros", std::string("print(5)\0\0", 10)),
        script("syntax_error", "print("),
        script("nested_brackets", std::string(100000, '(')),
    };
}

std::vector<Adversary> escapes() {
    return {
        gains("reads_a_secret", "gained = 'secret' in open('%SECRET%').read()", true),
        gains("reads_the_run_directory", "gained = any('secret' in names for _, _, names in os.walk('/') if True)", true),
        gains("reads_users", "gained = 'root:' in open('/etc/passwd').read()", true),
        gains("reads_shadow", "gained = bool(open('/etc/shadow').read())"),
        gains("reads_proc", "gained = bool(os.listdir('/proc'))", true),
        gains("reads_environment", "gained = 'GRADUS_SECRET' in os.environ or len(os.environ) > 12"),
        gains("finds_descriptors", "for fd in range(3, 1024):\n    try:\n        os.fstat(fd)\n        gained = True\n    except OSError:\n        pass"),
        gains("writes_outside", "for path in ('/', '/tmp', '/usr', '/usr/bin', '/etc', '/home', '/dev', '/dev/shm', '/var/tmp', '/run', '/store', '/root', '..'):\n"
                                "    try:\n        open(path + '/gradus-adversary', 'w').close()\n        gained = True\n    except OSError:\n        pass", true),
        gains("writes_to_system_folders", "for path in ('/', '/usr', '/usr/bin', '/etc', '/home', '/root'):\n    try:\n        open(path + '/gradus-adversary', 'w').close()\n"
                                          "        gained = True\n    except OSError:\n        pass"),
        gains("overwrites_python", "open(sys.executable, 'r+b').close()\ngained = True"),
        gains("makes_a_socket", "import socket\nsocket.socket()\ngained = True"),
        gains("makes_a_unix_socket", "import socket\nsocket.socket(socket.AF_UNIX)\ngained = True"),
        gains("connects_to_this_machine", "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)\ngained = True"),
        gains("asks_a_name_server", "import socket\nsocket.gethostbyname('localhost.localdomain.example')\ngained = True"),
        gains("raises_limits", "import resource\nfor what in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):\n    try:\n"
                               "        resource.setrlimit(what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n        gained = True\n    except (ValueError, OSError):\n        pass"),
        gains("limits_of_others", "import resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))\ngained = True"),
        gains("traces_its_parent", kCall + "gained = libc.ptrace(16, os.getppid(), 0, 0) == 0"),
        gains("asks_to_be_traced", kCall + "gained = libc.ptrace(0, 0, 0, 0) == 0"),
        gains("reads_memory_of_others", kCall + "class V(ctypes.Structure):\n    _fields_ = [('p', ctypes.c_void_p), ('n', ctypes.c_size_t)]\n"
                                                "b = ctypes.create_string_buffer(16)\nv = V(ctypes.addressof(b), 16)\n"
                                                "gained = libc.process_vm_readv(os.getpid(), ctypes.byref(v), 1, ctypes.byref(v), 1, 0) > 0"),
        gains("makes_namespaces", kCall + "gained = libc.unshare(0x10000000) == 0 or libc.unshare(0x20000) == 0"),
        gains("clones_into_namespaces", kCall + "p = libc.syscall(56, 0x10000011, 0, 0, 0, 0)\nif p == 0:\n    os._exit(0)\ngained = p > 0"),
        gains("enters_namespaces", kCall + "gained = libc.setns(0, 0) == 0"),
        gains("mounts", kCall + "gained = libc.mount(b'none', b'.', b'tmpfs', 0, None) == 0 or libc.umount2(b'/work', 2) == 0"),
        gains("changes_its_root", "os.mkdir('r')\nos.chroot('r')\ngained = True"),
        gains("becomes_root", "os.setuid(0)\ngained = True"),
        gains("runs_set_user_id", "import subprocess\ngained = b'uid=0' in subprocess.run(['/bin/su', '-c', 'id'], capture_output=True).stdout"),
        gains("exotic_system_calls", kCall + "for n in (321, 425, 298, 250, 248, 323, 319, 246, 175, 313, 165, 169, 103, 435):\n"
                                             "    if libc.syscall(n, 0, 0, 0, 0, 0) >= 0:\n        gained = True"),
        gains("shared_memory", kCall + "gained = libc.shmget(0, 4096, 0o1600) >= 0"),
        gains("opens_devices", "for path in ('/dev/mem', '/dev/kmsg', '/dev/vda', '/dev/sda', '/dev/fuse', '/dev/ptmx'):\n    try:\n        os.open(path, os.O_RDONLY)\n"
                               "        gained = True\n    except OSError:\n        pass", true),
        gains("makes_devices", "os.mknod('d', 0o60666, os.makedev(8, 0))\ngained = True"),
        gains("types_into_the_terminal", "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')\ngained = True"),
        gains("signals_the_rank", "for p in range(2, 1 << 16):\n    try:\n        os.kill(p, 0)\n        gained = gained or p not in (os.getpid(),)\n    except OSError:\n        pass"),
        gains("slows_others", "os.setpriority(os.PRIO_USER, 0, 19)\ngained = True"),
        gains("host_name", "import socket\nsocket.sethostname('x')\ngained = True"),
    };
}

std::vector<Adversary> compiled() {
    return {
        cpp("cpp_template_recursion", "template <int N> struct F { static const int v = F<N - 1>::v + F<N - 2>::v + 1; };\nint add(int a, int b) { return F<100000>::v; }"),
        cpp("cpp_template_explosion", "template <class A, class B> struct P {}; template <int N> struct T { typedef P<typename T<N - 1>::type, P<typename T<N - 1>::type, int>> type; };\n"
                                      "template <> struct T<0> { typedef int type; };\nint add(int a, int b) { return sizeof(T<60>::type) + typeid(T<60>::type).hash_code(); }"),
        cpp("cpp_constexpr_loop", "constexpr int f(int n) { int s = 0; for (int i = 0; i < 2000000000; ++i) for (int j = 0; j < n; ++j) s ^= i; return s; }\n"
                                  "template <int> struct S {}; S<f(100)> s;\nint add(int a, int b) { return 0; }"),
        cpp("cpp_includes_endless_file", "#include \"/dev/zero\"\nint add(int a, int b) { return 0; }"),
        cpp("cpp_includes_random_file", "#include \"/dev/urandom\"\nint add(int a, int b) { return 0; }"),
        cpp("cpp_includes_itself", "#include \"program.cpp\"\nint add(int a, int b) { return 0; }"),
        cpp("cpp_includes_users", "const char* text = R\"x(\n#include \"/etc/shadow\"\n)x\";\nint add(int a, int b) { return text[0] == '\\n' ? 0 : 5; }"),
        cpp("cpp_takes_in_a_file", "asm(\".incbin \\\"/etc/shadow\\\"\");\nint add(int a, int b) { return 5; }"),
        cpp("cpp_huge_object", "char big[1ull << 33] = {1};\nint add(int a, int b) { return big[a]; }"),
        cpp("cpp_huge_bss", "char big[1ull << 40];\nint add(int a, int b) { return big[a]; }"),
        cpp("cpp_macro_bomb", "#define A(x) x x x x x x x x x x\n#define B(x) A(A(A(A(A(A(A(A(A(x)))))))))\nint add(int a, int b) { return 0 B(+ 1); }"),
        cpp("cpp_exit_before_main", "#include <cstdlib>\nstruct E { E() { std::exit(0); } } e;\nint add(int a, int b) { return 0; }"),
        cpp("cpp_results_before_main", "#include <unistd.h>\n__attribute__((constructor)) void tell() { for (int f = 1; f < 256; ++f) if (write(f, \"tests 2\\npass 0\\npass 1\\nend\\n\", 28)) {} "
                                       "_exit(0); }\nint add(int a, int b) { return 0; }"),
        cpp("cpp_results_at_exit", "#include <unistd.h>\nstruct E { ~E() { for (int f = 1; f < 256; ++f) if (write(f, \"pass 0\\npass 1\\nend\\n\", 18)) {} } } e;\nint add(int a, int b) { return 0; }"),
        cpp("cpp_redefines_assert", "#define assert(x)\n#define NDEBUG\n#define main main_\n#define gradus_tested(...) 5\nint add(int a, int b) { return 0; }"),
        cpp("cpp_true_comparison", "struct S { operator int() const { return 5; } }; bool operator==(S, int) { return true; }\nint add(int a, int b) { return 0; }"),
        cpp("cpp_replaces_the_wire", "namespace gradus_wire { int judge(int, bool, const char*) { return 1; } }\n#define Remote Fake\nint add(int a, int b) { return 0; }"),
        cpp("cpp_replaces_library_functions", "extern \"C\" int memcmp(const void*, const void*, unsigned long) { return 0; }\nextern \"C\" void abort() { for (;;) ; }\nint add(int a, int b) { return 0; }"),
        cpp("cpp_malformed_answer", "#include <unistd.h>\nint add(int a, int b) { unsigned long n = ~0ul; if (write(4, &n, 8)) {} _exit(0); }"),
        cpp("cpp_short_answer", "#include <unistd.h>\nint add(int a, int b) { unsigned long n = 1; if (write(4, &n, 8)) {} if (write(4, \"\", 1)) {} _exit(0); }"),
        cpp("cpp_null", "int add(int a, int b) { return *(volatile int*)0; }"),
        cpp("cpp_stack_overflow", "int add(int a, int b) { volatile char x[100000]; x[0] = 1; return add(a + 1, b) + x[0]; }"),
        cpp("cpp_endless", "int add(int a, int b) { for (volatile int i = 0;; i = i + 1) ; }"),
        cpp("cpp_throws", "int add(int a, int b) { throw 5; }"),
        cpp("cpp_own_main", "int add(int a, int b);\nint main() { return 0; }\nint add(int a, int b) { return 0; }"),
        cpp("cpp_executes_another", "#include <unistd.h>\nint add(int a, int b) { execl(\"/bin/true\", \"true\", (char*)0); return 0; }"),
        cpp("cpp_zeros", std::string("int add(int a, int b) { return 5; }\0\0}", 38)),
        cpp("cpp_pragmas", "#pragma GCC poison std write read\n#pragma GCC optimize(\"O0\")\nint add(int a, int b) { return 0; }"),
    };
}

}  // namespace

std::vector<Adversary> adversaries() {
    std::vector<Adversary> all;
    for (const auto& part : {cheats(), bombs(), escapes(), compiled()}) all.insert(all.end(), part.begin(), part.end());
    return all;
}

}  // namespace gradus
