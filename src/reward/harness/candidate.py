# SPDX-License-Identifier: Apache-2.0
# The process of the program that is tested: loads the source on descriptor 9, then answers calls, one JSON text a line, that come on
# descriptor 3, on descriptor 4. It knows no expected value; whatever it answers is only data to the tests' process.
import builtins, sys, types

sys.set_int_max_str_digits(0)
requests, answers = open(3, "rb"), open(4, "wb", buffering=0)
handles, sys.modules["solution"] = [], types.ModuleType("solution")
names = sys.modules["solution"].__dict__


def encode(x):
    kind = type(x)
    if x is None or kind in (bool, int, float, str):
        return x
    if kind is list:
        return [encode(y) for y in x]
    if kind is tuple:
        return {"t": [encode(y) for y in x]}
    if isinstance(x, dict):
        return {"d": [[encode(k), encode(v)] for k, v in x.items()]}
    if isinstance(x, frozenset):
        return {"f": [encode(y) for y in x]}
    if isinstance(x, set):
        return {"s": [encode(y) for y in x]}
    if kind in (bytes, bytearray):
        return {"b": x.hex(), "mutable": kind is bytearray}
    if kind is complex:
        return {"c": [x.real, x.imag]}
    if kind is range:
        return {"r": [x.start, x.stop, x.step]}
    if isinstance(x, type) and getattr(builtins, x.__name__, None) is x:
        return {"y": x.__name__}
    for plain in (bool, int, float, str):
        if isinstance(x, plain):
            return plain(x)
    if isinstance(x, list):
        return [encode(y) for y in x]
    if isinstance(x, tuple):
        return {"t": [encode(y) for y in x]}
    if kind.__module__ in ("decimal", "_decimal", "fractions") and kind.__name__ in ("Decimal", "Fraction"):
        return {"n": [kind.__name__, str(x)]}
    if kind.__module__ == "datetime" and kind.__name__ in ("date", "time", "datetime", "timedelta"):
        return {"w": [kind.__name__, [encode(y) for y in x.__reduce__()[1]]]}
    if kind.__module__ in ("collections", "array") and kind.__name__ in ("deque", "array"):
        return {"q": [encode(y) for y in x]}
    if hasattr(kind, "__iter__") and (hasattr(kind, "__next__") or kind.__module__ == "builtins"):
        return {"i": [encode(y) for y in x]}
    handles.append(x)
    return {"h": len(handles) - 1}


def decode(x):
    if type(x) is list:
        return [decode(y) for y in x]
    if type(x) is not dict:
        return x
    (tag, value), *rest = x.items()
    if tag == "t":
        return tuple(map(decode, value))
    if tag == "d":
        return {decode(k): decode(v) for k, v in value}
    if tag == "s":
        return set(map(decode, value))
    if tag == "f":
        return frozenset(map(decode, value))
    if tag == "b":
        return bytearray.fromhex(value) if rest[0][1] else bytes.fromhex(value)
    if tag == "c":
        return complex(*value)
    if tag == "r":
        return range(*value)
    if tag == "i":
        return iter([decode(y) for y in value])
    if tag == "n":
        import decimal, fractions
        return {"Decimal": decimal.Decimal, "Fraction": fractions.Fraction}[value[0]](value[1])
    if tag == "w":
        import datetime
        return getattr(datetime, value[0])(*map(decode, value[1]))
    if tag == "y":
        return getattr(builtins, value)
    if tag == "q":
        import collections
        return collections.deque(map(decode, value))
    return handles[value]


def answer(request):
    what, target, *arguments = request
    if what == "name":
        return encode(names[target]) if target in names else {"missing": target}
    if what == "get":
        return encode(getattr(handles[target], arguments[0]))
    if what == "set":
        setattr(handles[target], arguments[0], decode(arguments[1]))
        return None
    positional, keyword = [decode(x) for x in arguments[0]], {k: decode(v) for k, v in arguments[1].items()}
    result = encode((names[target] if what == "call" else handles[target])(*positional, **keyword))
    # What the function did to its arguments; only where it is other than before.
    changed = [[i, encode(x)] for i, x in enumerate(positional) if arguments[2] and type(x) in (list, dict, set, bytearray)]
    return result, [[i, x] for i, x in changed if x != arguments[0][i]]


def serve():
    import json
    with open(9, "rb") as file:
        source = file.read()
    dumps, loads = json.dumps, json.loads
    try:
        exec(compile(source, "solution.py", "exec"), names)
        reply = {"ok": None}
    except BaseException as error:
        reply = {"error": type(error).__name__, "text": str(error)[:300]}
    while True:
        answers.write(dumps(reply).encode() + b"\n")
        line = requests.readline()
        if not line:
            return
        request = loads(line)
        try:
            value = answer(request)
            reply = {"ok": value[0], "changed": value[1]} if type(value) is tuple else {"ok": value}
        except BaseException as error:
            reply = {"error": type(error).__name__, "text": str(error)[:300]}


serve()
