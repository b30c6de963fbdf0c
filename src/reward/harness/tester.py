# SPDX-License-Identifier: Apache-2.0
# The process of the tests. It never runs code of the program that is tested: the names that are tested stand for calls
# into another process, and only plain data comes back, with comparisons of its own. Results go to descriptor 5:
# "tests N" once, then "pass I" or "fail I REASON" for each of them, "end" at last. The work, a JSON text, comes on stdin:
# prologue, entry_point, names (further ones of the program that tests may use), tests, in_place (whether what the program
# did to its arguments shows). "broken REASON" where prologue or tests cannot be used, before anything was asked of the
# program.
import ast, builtins, json, sys

sys.set_int_max_str_digits(0)
sys.setrecursionlimit(5000)
answers, requests, verdict = open(3, "rb"), open(4, "wb", buffering=0), open(5, "w", encoding="utf-8", errors="replace")
work = json.load(sys.stdin)
longest = 16 << 20


class ProgramEnded(Exception):
    pass


class NotPlain(TypeError):
    pass


def ask(*request):
    text = json.dumps(request).encode() + b"\n"
    try:
        requests.write(text)
    except OSError:
        raise ProgramEnded("the program ended before its tests did") from None
    return receive()


def receive():
    line = answers.readline(longest)
    if not line.endswith(b"\n"):
        raise ProgramEnded("the program ended before its tests did" if len(line) < longest else "an answer is too long")
    reply = json.loads(line)
    if type(reply) is not dict:
        raise NotPlain("an answer of the program is malformed")
    if "error" in reply:
        kind = getattr(builtins, str(reply["error"]), None)
        known = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, (AssertionError, UnicodeError))
        text = str(reply.get("text"))
        raise (kind(text) if known else RuntimeError(f"{reply['error']}: {text}"))
    return reply


def encode(x):
    kind = type(x)
    if x is None or kind in (bool, int, float, str):
        return x
    if kind is list:
        return [encode(y) for y in x]
    if isinstance(x, tuple):
        return {"t": [encode(y) for y in x]}
    if isinstance(x, dict):
        return {"d": [[encode(k), encode(v)] for k, v in x.items()]}
    if kind is set:
        return {"s": [encode(y) for y in x]}
    if kind is frozenset:
        return {"f": [encode(y) for y in x]}
    if kind in (bytes, bytearray):
        return {"b": x.hex(), "mutable": kind is bytearray}
    if kind is complex:
        return {"c": [x.real, x.imag]}
    if kind is range:
        return {"r": [x.start, x.stop, x.step]}
    if kind in (Handle, Function):
        return {"h": Handle.number(x)}
    if isinstance(x, type) and getattr(builtins, x.__name__, None) is x:
        return {"y": x.__name__}
    if kind.__name__ in ("Decimal", "Fraction"):
        return {"n": [kind.__name__, str(x)]}
    if kind.__module__ == "datetime":
        return {"w": [kind.__name__, [encode(y) for y in x.__reduce__()[1]]]}
    if kind.__name__ == "deque":
        return {"q": [encode(y) for y in x]}
    if hasattr(kind, "__next__") or kind.__module__ == "builtins" and hasattr(kind, "__iter__"):
        return {"i": [encode(y) for y in x]}
    raise NotPlain(f"tests cannot hand a {kind.__name__} to the program")


def decode(x):
    if type(x) is list:
        return [decode(y) for y in x]
    if type(x) is not dict:
        return x
    if "t" in x:
        return tuple(map(decode, x["t"]))
    if "d" in x:
        return {decode(k): decode(v) for k, v in x["d"]}
    if "s" in x:
        return set(map(decode, x["s"]))
    if "f" in x:
        return frozenset(map(decode, x["f"]))
    if "b" in x:
        return bytearray.fromhex(x["b"]) if x.get("mutable") else bytes.fromhex(x["b"])
    if "c" in x:
        return complex(*map(float, x["c"]))
    if "r" in x:
        return range(*map(int, x["r"]))
    if "i" in x:
        return iter([decode(y) for y in x["i"]])
    if "n" in x:
        import decimal, fractions
        return {"Decimal": decimal.Decimal, "Fraction": fractions.Fraction}[x["n"][0]](str(x["n"][1]))
    if "w" in x:
        import datetime
        name = {"date": "date", "time": "time", "datetime": "datetime", "timedelta": "timedelta"}[x["w"][0]]
        return getattr(datetime, name)(*[int(y) if type(y) is int else bytes(decode(y)) for y in x["w"][1]])
    if "q" in x:
        import collections
        return collections.deque(map(decode, x["q"]))
    if "y" in x and isinstance(getattr(builtins, str(x["y"]), None), type):
        return getattr(builtins, x["y"])
    if "h" in x and type(x["h"]) is int:
        return Handle(x["h"])
    raise NotPlain("an answer of the program is malformed")


def call(what, target, arguments, keywords):
    reply = ask(what, target, [encode(x) for x in arguments], {k: encode(v) for k, v in keywords.items()},
                work["in_place"])
    for i, changed in reply.get("changed", ()) if work["in_place"] else ():
        argument, value = arguments[i], decode(changed)
        if type(argument) is not type(value):
            raise NotPlain("an answer of the program is malformed")
        if type(argument) in (list, bytearray):
            argument[:] = value
        elif type(argument) in (dict, set):
            argument.clear()
            argument.update(value)
    return decode(reply["ok"])


def opaque(*_):
    raise NotPlain("the program returned an object that is no plain data: it cannot be compared or judged")


class Handle:
    """An object of the program. Tests can call it, read and set its attributes and hand it back, but not judge by it."""

    __slots__ = ("_handle",)
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __len__ = __iter__ = __contains__ = opaque
    __getitem__ = __hash__ = __str__ = __repr__ = __int__ = __float__ = __index__ = opaque

    def __init__(self, handle):
        object.__setattr__(self, "_handle", handle)

    def number(self):
        return object.__getattribute__(self, "_handle")

    def __call__(self, *arguments, **keywords):
        return call("handle", Handle.number(self), arguments, keywords)

    def __getattribute__(self, name):
        return decode(ask("get", Handle.number(self), name)["ok"])

    def __setattr__(self, name, value):
        ask("set", Handle.number(self), name, encode(value))


class Function:
    """The tested function, by name."""

    __slots__ = ("_name", "_handle")
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __hash__ = opaque

    def __init__(self, name, handle):
        self._name, self._handle = name, handle

    def __call__(self, *arguments, **keywords):
        return call("call", self._name, arguments, keywords)


def number_of_function(x):
    return x._handle if type(x) is Function else object.__getattribute__(x, "_handle")


Handle.number = staticmethod(number_of_function)


def bring(name):
    """A name of the program, as the tests see it."""
    reply = ask("name", name)["ok"]
    if type(reply) is dict and "missing" in reply:
        raise NameError(f"the program defines no {name}")
    return Function(name, reply["h"]) if type(reply) is dict and type(reply.get("h")) is int else decode(reply)


class Units:
    """Tests that are told apart, and how each went."""

    def __init__(self):
        self.results = []

    def new(self):
        self.results.append("never reached")
        return len(self.results) - 1

    def say(self, i):
        reason = " ".join(self.results[i].split())[:300]
        say(f"fail {i} {reason}" if reason else f"pass {i}")

    def settle(self, i, error=None):
        text = "" if error is None else "the assertion does not hold" if isinstance(error, AssertionError) and not str(error) \
            else f"{type(error).__name__}: {error}"
        self.results[i] = text
        self.say(i)


def guarded(statement, i):
    """try: STATEMENT; settle(i)   except BaseException as e: settle(i, e)"""
    shell = ast.parse(f"try:\n    pass\n    __settle__({i})\nexcept BaseException as __error__:\n    __settle__({i}, __error__)").body[0]
    shell.body[0] = statement
    return shell


def compiled(test, units, entry_point):
    """Code of a test and the units in it: the statements of a function `check` that assert something, else the test as
    a whole."""
    tree = ast.parse(test)
    check = next((s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == "check"), None)
    asserting = [] if check is None else \
        [s for s in check.body if any(isinstance(n, ast.Assert) for n in ast.walk(s)) and not isinstance(s, (ast.FunctionDef, ast.ClassDef))]
    indices = [units.new() for _ in asserting] or [units.new()]
    if asserting:
        check.body = [guarded(s, indices[asserting.index(s)]) if s in asserting else s for s in check.body]
    if check is not None and not any(isinstance(s, ast.Expr) and isinstance(s.value, ast.Call) and
                                     getattr(s.value.func, "id", "") == "check" for s in tree.body):
        tree.body += ast.parse(f"check({entry_point})").body
    return compile(ast.fix_missing_locations(tree), "tests", "exec"), indices, bool(asserting)


def say(text):
    verdict.write(text + "\n")
    verdict.flush()


def prepared():
    """The tests as code, the names that they see, and the units in them."""
    units = Units()
    tests = [compiled(test, units, work["entry_point"]) for test in work["tests"]]
    names = {"__name__": "tests", "__settle__": units.settle}
    exec(compile(work["prologue"], "prologue", "exec"), names)
    return tests, names, units


def main():
    try:
        tests, names, units = prepared()
    except BaseException as error:
        return say(f"broken {type(error).__name__}: {' '.join(str(error).split())}")
    say(f"tests {len(units.results)}")
    problem = None
    try:
        receive()  # the program is loaded
        for name in [work["entry_point"], *work["names"]]:
            if name:
                names[name] = bring(name)
    except BaseException as error:
        problem = error
    for code, indices, settles in tests:
        error = problem
        if error is None:
            try:
                exec(code, names)
            except BaseException as raised:
                error = raised
        for i in indices:
            if not settles or units.results[i] == "never reached" and error is not None:
                units.settle(i, error)
            elif units.results[i] == "never reached":
                units.say(i)
    say("end")


main()
