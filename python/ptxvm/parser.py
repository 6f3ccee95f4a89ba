"""Reads PTX text into functions made of instructions with resolved operands."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import ParseError
from .syntax import (
    SPACES,
    TYPE_BYTES,
    Address,
    Function,
    Group,
    Imm,
    Instruction,
    Name,
    Negated,
    Pair,
    Reg,
    Special,
    Var,
    Vector,
)

if TYPE_CHECKING:
    from .syntax import Operand

TOKEN = re.compile(
    r"""(?P<skip>[ \t\r]+|//[^\n]*|/\*.*?\*/)
      | (?P<newline>\n)
      | (?P<string>"(?:\\.|[^"\\])*")
      | (?P<number>0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?
          |\d+\.\d+(?:[eE][-+]?\d+)?|\d+U?)
      | (?P<word>[%$_.A-Za-z](?:[\w$.]|::)*)
      | (?P<punct>[{}()\[\],;:@!+\-|=<>*~&^/])""",
    re.VERBOSE | re.DOTALL,
)

BRACE = re.compile(r"[{}]|\"(?:\\.|[^\"\\])*\"|//[^\n]*|/\*.*?\*/", re.DOTALL)


class Scope:
    """Names declared between a pair of braces."""

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.names: dict[str, Any] = {}
        self.ranges: dict[str, Any] = {}

    def find(self, name: str) -> Any:
        """What a name stands for here or in a scope around, or None."""
        stem = name.rstrip("0123456789")
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            if stem != name and stem in scope.ranges:
                return scope.ranges[stem]
            scope = scope.parent
        return None


class Parser:
    """Recursive-descent reader of one PTX module.

    Bodies of kernels are long, and a launch needs one of them: they are read when :meth:`read` asks for them.
    """

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.tokens = list(self.tokenize(text))
        self.at = 0
        self.target = ""
        self.files: dict[int, str] = {}
        self.functions: dict[str, Function] = {}
        self.variables: dict[str, Var] = {}
        self.place: tuple[int, int] | None = None  # file and line of the last .loc
        self.places: list[tuple[Instruction, tuple[int, int]]] = []
        self.function = Function("", False)  # the one being read
        self.pending_labels: list[tuple[Instruction, Scope]] = []
        self.unread: dict[str, tuple[Function, Scope, str, int]] = {}  # bodies of kernels, and the lines they begin in
        self.scope = Scope()
        self.module_scope = self.scope

    @staticmethod
    def tokenize(text: str, line: int = 1) -> Iterator[tuple[str, str, int]]:
        """Yield (kind, text, line) of every token; the body of a kernel is one token, of kind body."""
        position, in_entry = 0, False
        while position < len(text):
            match = TOKEN.match(text, position)
            if match is None:
                raise ParseError(f"line {line}: cannot read {text[position : position + 30]!r}")
            kind, value = str(match.lastgroup), match.group()
            if in_entry and value == "{":
                end = closing_brace(text, position)
                yield "body", text[position:end], line
                line += text.count("\n", position, end)
                position, in_entry = end, False
                continue
            in_entry = value == ".entry" or (in_entry and value != ";")
            if kind == "newline":
                line += 1
            elif kind == "skip":
                line += value.count("\n")
            elif kind == "word" and value.startswith((".reg.", ".param.", ".shared.", ".local.")):
                for part in value[1:].split("."):
                    yield kind, "." + part, line
            else:
                yield kind, value, line
            position = match.end()
        yield "end", "", line

    # -- token helpers -------------------------------------------------------
    def peek(self) -> str:
        """The next token, left where it is."""
        return self.tokens[self.at][1]

    def next(self) -> str:
        """The next token."""
        token = self.tokens[self.at]
        self.at += 1
        return token[1]

    def accept(self, value: str) -> bool:
        """Take the next token if it is ``value``."""
        if self.tokens[self.at][1] == value:
            self.at += 1
            return True
        return False

    def expect(self, value: str) -> None:
        """Take the next token, which must be ``value``."""
        if not self.accept(value):
            raise self.error(f"expected {value!r}, found {self.peek()!r}")

    def error(self, message: str) -> ParseError:
        """An error at the current line."""
        return ParseError(f"PTX line {self.tokens[self.at][2]}: {message}")

    def rest_of_line(self) -> list[str]:
        """All tokens up to the end of the line."""
        line, words = self.tokens[self.at - 1][2], []
        while self.tokens[self.at][2] == line and self.tokens[self.at][0] != "end":
            words.append(self.next())
        return words

    def skip_braces(self) -> None:
        """Skip to the end of the next pair of braces."""
        while not self.accept("{"):
            self.next()
        depth = 1
        while depth:
            depth += {"{": 1, "}": -1}.get(self.next(), 0)

    # -- module level --------------------------------------------------------
    def parse(self) -> Parser:
        """Read the whole module."""
        while self.tokens[self.at][0] != "end":
            self.module_item()
        self.name_places()
        return self

    def name_places(self) -> None:
        """Give instructions their places in the source: file names can stand behind what refers to them."""
        for instruction, (file, line) in self.places:
            instruction.source = f"{self.files.get(file, file)}:{line}"
        self.places = []

    def read(self, name: str) -> None:
        """Read the body of a kernel, unless that is done."""
        if name not in self.unread:
            return
        function, scope, text, line = self.unread.pop(name)
        self.tokens, self.at = list(self.tokenize(text, line)), 0
        self.body(function, scope)
        self.name_places()

    def module_item(self) -> None:
        """One directive, variable or function."""
        word = self.next()
        if word == ".version":
            self.rest_of_line()
        elif word == ".target":
            self.target = self.rest_of_line()[0]
        elif word == ".address_size":
            self.rest_of_line()
        elif word == ".file":
            index, name, *_ = self.rest_of_line()
            self.files[int(index)] = name.strip('"')
        elif word == ".section":
            self.skip_braces()
        elif word in (".visible", ".extern", ".weak", ".common", ".entry", ".func") or word[1:] in SPACES:
            self.at -= 1
            self.linked_item()
        elif word in (".alias", ".pragma"):
            while self.next() != ";":
                pass
        elif word == ";":
            return
        else:
            raise self.error(f"unexpected {word!r} at module level")

    def linked_item(self) -> None:
        """A variable or function with its linkage."""
        extern = False
        while self.peek() in (".visible", ".extern", ".weak", ".common"):
            extern |= self.next() == ".extern"
        if self.peek() in (".entry", ".func"):
            self.parse_function()
        else:
            for var in self.variable_declaration(extern):
                self.variables[var.name] = var
                self.scope.names[var.name] = var

    def variable_declaration(self, extern: bool = False) -> list[Var]:
        """``.space [.align n] .type name[dims] [= init] {, name...};``"""
        space, vector, kind = self.next()[1:], 1, ""
        align: int | None = None
        while self.peek().startswith("."):
            word = self.next()[1:]
            if word == "align":
                align = self.integer()
            elif word in ("v2", "v4"):
                vector = int(word[1:])
            elif word in TYPE_BYTES:
                kind = word
            elif word == "attribute":
                self.skip_group("(", ")")
        found = []
        while True:
            name, count = self.next(), vector
            while self.accept("["):
                count *= 0 if self.peek() == "]" else self.integer()
                self.expect("]")
            init = self.initializer() if self.accept("=") else []
            width = TYPE_BYTES[kind]
            size = count * width or (len(init) * width if init else 0)
            found.append(Var(name, space, kind, size, align or width * vector, init, extern))
            if not self.accept(","):
                break
        self.expect(";")
        return found

    def initializer(self) -> list[Imm | Address]:
        """The values after ``=``, flattened."""
        if self.accept("{"):
            values = []
            while not self.accept("}"):
                values += self.initializer()
                self.accept(",")
            return values
        word = self.peek()
        if word == "generic":
            self.next()
            self.expect("(")
            value = self.initializer()
            self.expect(")")
            return value
        if self.tokens[self.at][0] == "word":
            name, offset = self.next(), 0
            if self.accept("+"):
                offset = self.integer()
            return [Address(Name(name), offset)]
        return [self.literal()]

    def skip_group(self, opening: str, closing: str) -> None:
        """Skip a bracketed group."""
        self.expect(opening)
        depth = 1
        while depth:
            depth += {opening: 1, closing: -1}.get(self.next(), 0)

    def integer(self) -> int:
        """An integer literal."""
        value = self.literal()
        if not isinstance(value.value, int):
            raise self.error("expected an integer")
        return value.value

    def literal(self) -> Imm:
        """A number with its sign."""
        sign = 1
        while self.peek() in ("-", "+"):
            sign *= -1 if self.next() == "-" else 1
        kind, word, _ = self.tokens[self.at]
        if kind != "number":
            raise self.error(f"expected a number, found {word!r}")
        self.at += 1
        head = word[:2].lower()
        if head == "0f":
            return Imm(struct.unpack("<f", struct.pack("<I", int(word[2:], 16)))[0] * sign, int(word[2:], 16))
        if head == "0d":
            return Imm(struct.unpack("<d", struct.pack("<Q", int(word[2:], 16)))[0] * sign)
        if "." in word:
            return Imm(float(word) * sign)
        word = word.rstrip("U")
        if head == "0x":
            return Imm(int(word, 16) * sign)
        return Imm(int(word, 8 if len(word) > 1 and word[0] == "0" else 10) * sign)

    # -- functions -----------------------------------------------------------
    def parse_function(self) -> None:
        """An .entry or .func, declared or defined."""
        entry = self.next() == ".entry"
        scope = Scope(self.module_scope)
        returns = [] if entry else self.formals(scope)
        function = Function(self.next(), entry, returns=returns)
        function.params = self.formals(scope) if self.peek() == "(" else []
        while self.peek() not in ("{", ";") and self.tokens[self.at][0] != "body":
            self.function_directive(function)
        known = self.functions.get(function.name)
        if self.accept(";"):
            if known is None:
                self.functions[function.name] = function
            return
        function.defined = True
        self.functions[function.name] = function
        kind, text, line = self.tokens[self.at]
        if kind == "body":
            self.at += 1
            self.unread[function.name] = (function, scope, text, line)
        else:
            self.body(function, scope)

    def body(self, function: Function, scope: Scope) -> None:
        """The braces of a function and what is between them."""
        self.function, self.scope = function, scope
        self.pending_labels = []
        self.place = None
        self.next()
        self.block(Scope(scope))
        self.resolve_labels()
        self.scope = self.module_scope

    def function_directive(self, function: Function) -> None:
        """A directive between the head and the body of a function."""
        word = self.next()
        values = []
        while self.tokens[self.at][0] == "number" or self.peek() == ",":
            value = self.next()
            if value != ",":
                values.append(int(value))
        function.directives[word[1:]] = values

    def formals(self, scope: Scope) -> list[Var]:
        """The parenthesised formal parameters of a function; empty when absent."""
        found: list[Var] = []
        if not self.accept("("):
            return found
        while not self.accept(")"):
            space, kind = self.next()[1:], ""
            align: int | None = None
            while self.peek().startswith("."):
                word = self.next()[1:]
                if word == "align":
                    align = self.integer()
                elif word in TYPE_BYTES:
                    kind = word
            name = "_" if self.peek() in (",", ")") else self.next()
            count = 1
            if self.accept("["):
                count = self.integer() if self.peek() != "]" else 0
                self.expect("]")
            size = TYPE_BYTES[kind] * count
            var = Var(name, "param" if space == "param" else "reg", kind, size, align or TYPE_BYTES[kind])
            scope.names[name] = var
            found.append(var)
            self.accept(",")
        return found

    def block(self, scope: Scope) -> None:
        """Statements up to the closing brace, in a scope of their own."""
        outer, self.scope = self.scope, scope
        while not self.accept("}"):
            self.statement()
        self.scope = outer

    def statement(self) -> None:
        """One statement of a function's body."""
        kind, word, line = self.tokens[self.at]
        if word == "{":
            self.next()
            self.block(Scope(self.scope))
        elif word == ";":
            self.next()
        elif word == ".loc":
            self.next()
            numbers = self.rest_of_line()
            self.place = (int(numbers[0]), int(numbers[1]))
        elif word == ".reg":
            self.register_declaration()
        elif word.startswith(".") and word[1:] in SPACES:
            for var in self.variable_declaration():
                self.scope.names[var.name] = var
                self.function.variables.append(var)
        elif word in (".pragma",):
            while self.next() != ";":
                pass
        elif word in (".file", ".section"):
            self.module_item()
        elif kind == "word" and self.tokens[self.at + 1][1] == ":":
            self.at += 2
            if self.peek() in (".branchtargets", ".calltargets", ".callprototype"):
                self.label_table(word)
            else:
                self.scope.names[word] = ("label", len(self.function.body))
                self.function.labels[word] = len(self.function.body)
        else:
            self.instruction(line)

    def label_table(self, label: str) -> None:
        """The targets of an indexed branch, or a prototype."""
        kind, names = self.next(), []
        while not self.accept(";"):
            word = self.next()
            if word != ",":
                names.append(word)
        self.function.tables[label] = names if kind == ".branchtargets" else []
        self.scope.names[label] = ("table", label)

    def register_declaration(self) -> None:
        """``.reg .type name, name<count>...;``"""
        self.next()
        kind = self.next()[1:]
        if kind in ("v2", "v4"):
            raise self.error("vector registers are not supported")
        while True:
            name = self.next()
            if self.accept("<"):
                count = self.integer()
                self.expect(">")
                stem = name.rstrip("0123456789")
                if stem != name:
                    for index in range(count):
                        self.new_register(f"{name}{index}", kind)
                else:
                    self.scope.ranges[name] = ("range", kind, self.scope)
            else:
                self.new_register(name, kind)
            if not self.accept(","):
                break
        self.expect(";")

    def new_register(self, name: str, kind: str, scope: Scope | None = None) -> Reg:
        """A register of the function, known in a scope (default: the current one)."""
        register = Reg(len(self.function.registers), kind, name)
        self.function.registers.append(register)
        (scope or self.scope).names[name] = register
        return register

    def resolve(self, name: str) -> Operand:
        """The operand a name stands for in the current scope."""
        found = self.scope.find(name)
        if isinstance(found, tuple) and found[0] == "range":
            return self.new_register(name, found[1], found[2])
        if isinstance(found, Var) and found.space == "reg":
            return self.new_register(name, found.type)
        if isinstance(found, (Reg, Var)):
            return found
        if name == "_":
            return None
        if name.startswith("%"):
            return Special(name)
        if name == "WARP_SZ":
            return Imm(32)
        return Name(name)

    def instruction(self, line: int) -> None:
        """One instruction with its guard."""
        guard, negate = None, False
        if self.accept("@"):
            negate = self.accept("!")
            guard = self.resolve(self.next())
        op, *mods = self.next().split(".")
        arguments = []
        while not self.accept(";"):
            arguments.append(self.operand())
            self.accept(",")
        text = self.lines[line - 1].strip()
        parsed = Instruction(op, tuple(mods), arguments, guard, negate, line, None, text)
        if self.place:
            self.places.append((parsed, self.place))
        self.pending_labels.append((parsed, self.scope))
        self.function.body.append(parsed)

    def operand(self) -> Operand:
        """An operand, or two joined by ``|``."""
        first = self.simple_operand()
        if self.accept("|"):
            return Pair(first, self.simple_operand())
        return first

    def simple_operand(self) -> Operand:
        """A register, literal, name, address, vector or group."""
        kind, word, _ = self.tokens[self.at]
        if word == "{":
            return Vector(self.items("{", "}"))
        if word == "(":
            return Group(self.items("(", ")"))
        if word == "[":
            return self.address()
        if word == "!":
            self.next()
            return Negated(self.resolve(self.next()))
        if kind == "number" or word in ("-", "+"):
            return self.literal()
        self.next()
        base = self.resolve(word)
        if self.peek() in ("+", "-") and isinstance(base, Var):
            return Address(base, self.integer())
        return base

    def items(self, opening: str, closing: str) -> tuple[Operand, ...]:
        """Operands between brackets."""
        self.expect(opening)
        found = []
        while not self.accept(closing):
            found.append(self.operand())
            self.accept(",")
        return tuple(found)

    def address(self) -> Address | Group:
        """``[base+offset]``, or the ``[tensor, {coordinates}]`` form."""
        self.expect("[")
        base, offset = self.simple_operand(), 0
        if isinstance(base, Address):
            base, offset = base.base, base.offset
        while self.peek() in ("+", "-"):
            self.accept("+")
            offset += self.integer()
        extra = []
        while self.accept(","):
            extra.append(self.operand())
        self.expect("]")
        return Group((Address(base, offset), *extra)) if extra else Address(base, offset)

    def resolve_labels(self) -> None:
        """Turn label names into instruction indices, innermost scope first."""
        for instruction, scope in self.pending_labels:
            if instruction.op in ("bra", "brx"):
                for index, argument in enumerate(instruction.args):
                    if isinstance(argument, Name):
                        instruction.args[index] = scope.find(argument.name) or argument


def closing_brace(text: str, start: int) -> int:
    """Where the brace at ``start`` is closed: the position behind it."""
    depth = 0
    for match in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.end()
    return len(text)


def parse(text: str) -> Parser:
    """Parse PTX text; the result has ``functions``, ``variables``, ``target``."""
    return Parser(text).parse()
