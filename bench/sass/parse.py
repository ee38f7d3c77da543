"""The text of nvdisasm or ``cuobjdump -sass`` as functions and instructions."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field

_SECTION = re.compile(r"^\.text\.(\S+):$")
_FUNCTION = re.compile(r"^\s*Function\s*:\s*(\S+)$")  # cuobjdump
_LABEL = re.compile(r"^\s*(\.L_\S+|\$\S+|[A-Za-z_.$][\w.$]*):$")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_TARGET = re.compile(r"`\(([^)]+)\)")
_ADDRESS = re.compile(r"(?:^|[\s,])0x([0-9a-f]+)$")
_REGISTER = re.compile(r"(?<![\w.])-?[|~]?R(\d+)")
_GLOBAL = {"LDG": "load", "LDGSTS": "load", "STG": "store", "LD": "load", "ST": "store"}
_WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8, "128": 16, "256": 32}


@dataclass(frozen=True)
class Instruction:
    address: int
    predicate: str  # "", "P0", "!P0", "UP1"; PT is dropped
    opcode: str  # with all modifiers: LDG.E.128.CONSTANT
    operands: str

    @functools.cached_property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    @functools.cached_property
    def modifiers(self) -> tuple[str, ...]:
        return tuple(self.opcode.split(".")[1:])

    @property
    def global_access(self) -> str | None:
        """load, store or None. Generic accesses count as global; ATOM and RED do not."""
        return _GLOBAL.get(self.name)

    @property
    def bytes(self) -> int:
        """What one lane moves: 4 unless a modifier says otherwise."""
        for modifier in self.modifiers:
            digits = modifier.lstrip("US")
            if digits in _WIDTHS and modifier not in ("S",):
                return _WIDTHS[digits]
        return 4

    @functools.cached_property
    def _split(self) -> tuple[str, str]:
        first, _, rest = self.operands.partition(",")
        return first, rest

    @property
    def loaded(self) -> frozenset[int]:
        """Registers that a load fills."""
        found = _REGISTER.match(self._split[0].strip())
        if self.global_access != "load" or self.name == "LDGSTS" or not found:
            return frozenset()
        first = int(found[1])
        return frozenset(range(first, first + max(1, self.bytes // 4)))

    @property
    def registers_read(self) -> frozenset[int]:
        """First registers of all sources (of a 64-bit source only the first is in the text)."""
        text = self.operands if self.name in ("STG", "ST", "STS", "RED") else self._split[1]
        return frozenset(int(number) for number in _REGISTER.findall(text))


@dataclass
class Function:
    name: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # label: address of the next instruction

    @functools.cached_property
    def index(self) -> dict[int, int]:
        return {instruction.address: i for i, instruction in enumerate(self.instructions)}

    @functools.cached_property
    def returns(self) -> bool:
        return any(instruction.name == "RET" for instruction in self.instructions)

    def targets(self, instruction: Instruction) -> list[int]:
        """Addresses inside this function that the operands name."""
        named = [self.labels[name] for name in _TARGET.findall(instruction.operands) if name in self.labels]
        named += [self.labels[name] for name in re.findall(r"\.L_x_\d+", instruction.operands) if name in self.labels]
        if not named and (found := _ADDRESS.search(instruction.operands)):
            named = [int(found[1], 16)]
        return [address for address in dict.fromkeys(named) if address in self.index]


def parse(text: str) -> dict[str, Function]:
    """All functions of a disassembly, by their (mangled) names, in the order of the text."""
    functions: dict[str, Function] = {}
    current: Function | None = None
    waiting: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if found := (_SECTION.match(stripped) or _FUNCTION.match(line)):
            current = functions.setdefault(found[1], Function(found[1]))
            waiting = []
        elif current is None:
            continue
        elif stripped.startswith((".section", "//-----")):
            current = None
        elif found := _LABEL.match(stripped):
            waiting.append(found[1])
        elif found := _INSTRUCTION.match(line):
            address, predicate, opcode, operands = found.groups()
            address = int(address, 16)
            current.labels |= dict.fromkeys(waiting, address)
            waiting = []
            guard = "" if predicate in (None, "PT", "UPT") else predicate
            current.instructions.append(Instruction(address, guard, opcode, operands))
    return functions
