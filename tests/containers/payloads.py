"""Pickles that run code when they are unpickled: every way of naming a callable by every way of calling it."""

from __future__ import annotations

import struct

from tests.containers.pickles import PROTO2, STOP, call, dictionary, group, named, number, tensor, text

CANARY = "/tmp/ckptfmt-canary-that-must-not-appear"
TARGETS: list[tuple[str, str, list[bytes]]] = [
    ("os", "system", [text(f"touch {CANARY}")]),
    ("posix", "system", [text(f"touch {CANARY}")]),
    ("subprocess", "Popen", [group(text("touch"), text(CANARY))]),
    ("builtins", "eval", [text("__import__('os').mkdir('" + CANARY + "')")]),
    ("builtins", "exec", [text("import antigravity")]),
    ("builtins", "__import__", [text("antigravity")]),
    ("builtins", "open", [text(CANARY), text("w")]),
    ("builtins", "getattr", [named("os", "path"), text("join")]),
    ("importlib", "import_module", [text("antigravity")]),
    ("runpy", "run_module", [text("this")]),
    ("webbrowser", "open", [text("http://localhost")]),
    ("torch", "load", [text("/etc/passwd")]),
    ("torch.utils.cpp_extension", "load", [text("x"), text("y")]),
    ("antigravity", "anything", []),
    ("os", "popen", [text(f"touch {CANARY}")]),
    ("os", "execv", [text("/bin/touch"), group(text("touch"), text(CANARY))]),
    ("os", "spawnlp", [number(0), text("touch"), text("touch"), text(CANARY)]),
    ("os", "fork", []),
    ("os", "kill", [number(0), number(9)]),
    ("os", "_exit", [number(66)]),
    ("os", "putenv", [text("LD_PRELOAD"), text("/tmp/x.so")]),
    ("nt", "system", [text(f"copy nul {CANARY}")]),
    ("subprocess", "run", [group(text("touch"), text(CANARY))]),
    ("subprocess", "check_output", [group(text("touch"), text(CANARY))]),
    ("pty", "spawn", [text("/bin/sh")]),
    ("socket", "create_connection", [group(text("127.0.0.1"), number(9))]),
    ("urllib.request", "urlopen", [text("http://127.0.0.1:9/")]),
    ("builtins", "compile", [text("1"), text("x"), text("eval")]),
    ("builtins", "setattr", [named("builtins", "len"), text("x"), number(1)]),
    ("builtins", "apply", [named("os", "system"), group(text("x"))]),
    ("__builtin__", "eval", [text("1")]),
    ("builtins", "breakpoint", []),
    ("builtins", "input", [text(">")]),
    ("shutil", "rmtree", [text(CANARY)]),
    ("pathlib", "Path.touch", [text(CANARY)]),
    ("tempfile", "mktemp", []),
    ("ctypes", "CDLL", [text("libc.so.6")]),
    ("sys", "exit", [number(0)]),
    ("sys", "setrecursionlimit", [number(5)]),
    ("code", "interact", []),
    ("timeit", "timeit", [text("1")]),
    ("cProfile", "run", [text("1")]),
    ("pydoc", "pipepager", [text("x"), text(f"touch {CANARY}")]),
    ("operator", "attrgetter", [text("system")]),
    ("functools", "partial", [named("os", "system"), text("x")]),
    ("pickle", "loads", [b"C\x04cos\n"]),
    ("dill", "loads", [b"C\x04cos\n"]),
    ("numpy", "load", [text("/etc/passwd")]),
    ("numpy.testing._private.utils", "runstring", [text("1"), b"}"]),
    ("torch.hub", "load", [text("x/y"), text("z")]),
    ("torch.jit", "load", [text("/etc/passwd")]),
    ("torch._dynamo.guards", "GuardBuilder.get", [text("1")]),
    ("transformers.utils", "cached_file", [text("x"), text("y")]),
]


def stack_global(module: str, name: str) -> bytes:
    return b"\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93"


def payloads() -> dict[str, bytes]:
    """More than a thousand of them, by a name that says what they try."""
    found: dict[str, bytes] = {}
    for module, name, arguments in TARGETS:
        label = f"{module}.{name}"
        args = group(*arguments)
        ways = {
            "GLOBAL": named(module, name),
            "STACK_GLOBAL": stack_global(module, name),
            "STACK_GLOBAL by memo": text(module) + b"q\x00" + text(name) + b"q\x01" + b"00" + b"h\x00h\x01\x93",
        }
        for way, function in ways.items():
            found[f"{label} {way} REDUCE"] = function + args + b"R"
            found[f"{label} {way} NEWOBJ"] = function + args + b"\x81"
            found[f"{label} {way} NEWOBJ_EX"] = function + args + b"}\x92"
            found[f"{label} {way} OBJ"] = b"(" + function + b"".join(arguments) + b"o"
            found[f"{label} {way} BUILD"] = function + args + b"b"
        function = ways["GLOBAL"]
        instance = b"(" + b"".join(arguments) + b"i" + module.encode() + b"\n" + name.encode() + b"\n"
        found[f"{label} INST"] = instance
        found[f"{label} INST in a tensor's place"] = dictionary(weight=instance)
        found[f"{label} nested"] = call(named("builtins", "map"), function, group(args))
        found[f"{label} as a method"] = call(call(named("builtins", "getattr"), function, text("__call__")), *arguments)
        found[f"{label} setstate"] = call(function) + dictionary(__setstate__=function) + b"b" + args + b"b"
        found[f"{label} state with slots"] = (
            call(function) + group(b"N", dictionary(x=call(function, *arguments))) + b"b"
        )
        found[f"{label} into a dict"] = b"}" + text("k") + call(function, *arguments) + b"s"
        found[f"{label} as a key"] = b"}" + call(function, *arguments) + text("v") + b"s"
        found[f"{label} appended"] = b"]" + call(function, *arguments) + b"a"
        found[f"{label} in a set"] = b"\x8f(" + call(function, *arguments) + b"\x90"
        found[f"{label} as a persistent id"] = call(function, *arguments) + b"Q"
        found[f"{label} as a storage class"] = (
            group(text("storage"), function, text("0"), text("cpu"), number(4)) + b"Q"
        )
        found[f"{label} as a default factory"] = (
            call(named("collections", "defaultdict"), function) + text("k") + args + b"s"
        )
        found[f"{label} as a tensor subclass"] = call(
            named("torch._tensor", "_rebuild_from_type_v2"), function, function, args, dictionary(x=args)
        )
        found[f"{label} as tensor hooks"] = call(
            named("torch._utils", "_rebuild_parameter_with_state"), tensor("0", 4, (4,)), b"\x88",
            call(function, *arguments), call(function, *arguments),
        )  # fmt: skip
        found[f"{label} kept then run"] = (
            function + b"q\x05" + b"0" + b"h\x05" + args + b"R" + b"0" + b"h\x05" + args + b"R"
        )
        found[f"{label} dropped"] = call(function, *arguments) + b"0N"
        found[f"{label} under a mark"] = b"(" + call(function, *arguments) + b"1N"
    for code in (1, 2, 255):
        found[f"EXT1 {code}"] = b"\x82" + bytes([code]) + group() + b"R"
        found[f"EXT2 {code}"] = b"\x83" + struct.pack("<H", code) + group() + b"R"
        found[f"EXT4 {code}"] = b"\x84" + struct.pack("<i", code) + group() + b"R"
    found["code object"] = call(named("types", "FunctionType"), call(named("types", "CodeType"), number(0)), b"}")
    found["marshal"] = call(named("marshal", "loads"), b"C\x04abcd")
    found["pickle in a pickle"] = call(named("pickle", "loads"), b"C\x04cos\n")
    found["dotted path"] = stack_global("torch", "_utils.os.system") + group(text("x")) + b"R"
    found["reconstructor"] = call(
        named("copyreg", "_reconstructor"), named("os", "system"), named("builtins", "object"), b"N"
    )
    return {name: (b"\x80\x04" if b"\x93" in value else PROTO2) + value + STOP for name, value in found.items()}
