"""What a way through the code knows of the predicates that decide its branches.

Two branches on one predicate are not independent, and a predicate set to a constant on a rare way decides where
that way goes on: without this a "shortest way" would jump out of a rare case into the middle of the usual one.
"""

from __future__ import annotations

import re

from bench.sass.flow import Block, Graph, conditions
from bench.sass.parse import Instruction

Known = frozenset[tuple[str, bool]]
NOTHING: Known = frozenset()
NO_NAMES: frozenset[str] = frozenset()
_PREDICATE = re.compile(r"^U?P\d$")


def _operands(instruction: Instruction) -> list[str]:
    return [operand.strip() for operand in instruction.operands.split(",")]


def _literal(text: str) -> tuple[str, bool] | None:
    """!P0 -> (P0, False)"""
    name = text.lstrip("!")
    return (name, not text.startswith("!")) if _PREDICATE.match(name) else None


def written(instruction: Instruction) -> frozenset[str]:
    """Predicates an instruction may write: those among its first two operands; R2P and calls write all."""
    if instruction.name in ("BRA", "JMP", "EXIT", "BSSY", "BSYNC"):
        return NO_NAMES
    if instruction.name in ("R2P", "CALL"):
        return frozenset({"*"})
    return frozenset(operand for operand in _operands(instruction)[:2] if _PREDICATE.match(operand))


def _value(text: str, known: dict[str, bool]) -> bool | None:
    if text.lstrip("!") in ("PT", "UPT"):
        return not text.startswith("!")
    literal = _literal(text)
    if literal is None or literal[0] not in known:
        return None
    return known[literal[0]] is literal[1]


def _logic(instruction: Instruction, known: dict[str, bool]) -> dict[str, bool]:
    """Results of PLOP3.LUT P0, P1, a, b, c, 0x80, 0x0, as far as its inputs are known."""
    operands = _operands(instruction)
    if instruction.name not in ("PLOP3", "UPLOP3") or len(operands) != 7 or instruction.predicate:
        return {}
    inputs = [_value(text, known) for text in operands[2:5]]
    if None in inputs:
        return {}
    place = 4 * inputs[0] + 2 * inputs[1] + inputs[2]
    tables = (int(operands[5], 16), int(operands[6], 16))
    return {
        name: bool(table >> place & 1)
        for name, table in zip(operands[:2], tables, strict=True)
        if _PREDICATE.match(name)
    }


class Predicates:
    """Those of one function."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._effects: dict[int, list[Instruction]] = {}

    def effects(self, block: Block) -> list[Instruction]:
        """The instructions of a block that write predicates."""
        if block.number not in self._effects:
            self._effects[block.number] = [i for i in block.instructions if written(i)]
        return self._effects[block.number]

    def after(self, block: Block, known: Known) -> dict[str, bool]:
        """What is known at the end of a block."""
        now = dict(known)
        for instruction in self.effects(block):
            results = _logic(instruction, now)
            gone = written(instruction)
            now = {} if "*" in gone else {name: value for name, value in now.items() if name not in gone}
            now |= results
        return now

    def edges(self, block: Block, known: Known) -> list[tuple[int, dict[str, bool]]]:
        """Where a block may go on, with what is known there."""
        now = self.after(block, known)
        literals = [_literal(text) for text in conditions(block.last)]
        if not literals or block.last.name == "BSYNC":
            return [(successor, now) for successor in block.successors]
        values = [now[x[0]] is x[1] if x is not None and x[0] in now else None for x in literals]
        found = []
        for successor in block.successors:
            learned: dict[str, bool] = {}
            if successor != block.number + 1:  # taken: all hold
                if False in values:
                    continue
                learned = dict(literal for literal in literals if literal)
            elif all(values):
                continue
            elif len(literals) == 1 and literals[0]:
                learned = {literals[0][0]: not literals[0][1]}
            found.append((successor, now | learned))
        return found

    def live(self) -> dict[int, frozenset[str]]:
        """Predicates on which, from the start of a block, a later branch (or PLOP3) depends."""
        blocks = self.graph.blocks
        facts = {number: self._used_and_gone(blocks[number]) for number in self.graph.order}
        found: dict[int, frozenset[str]] = dict.fromkeys(self.graph.order, NO_NAMES)
        changed = True
        while changed:
            changed = False
            for number in reversed(self.graph.order):
                used, gone = facts[number]
                out = NO_NAMES.union(*(found[s] for s in blocks[number].successors))
                new = used | (NO_NAMES if "*" in gone else out - gone)
                changed |= new != found[number]
                found[number] = new
        return found

    def _used_and_gone(self, block: Block) -> tuple[frozenset[str], frozenset[str]]:
        used: set[str] = set()
        gone: set[str] = set()
        for instruction in self.effects(block):
            texts = _operands(instruction)[2:5] if instruction.name in ("PLOP3", "UPLOP3") else []
            used |= {literal[0] for text in texts if (literal := _literal(text))} - gone
            gone |= written(instruction)
        used |= {literal[0] for text in conditions(block.last) if (literal := _literal(text))} - gone
        return frozenset(used), frozenset(gone)
