"""Control flow of one function: basic blocks, dominators, loops."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.sass.parse import Function, Instruction

_BRANCHES = {"BRA", "BRX", "BRXU", "JMP", "JMX", "JMXU"}
_ENDS = {"EXIT", "RET", "KILL", "RTT"}
_LABELLED = _BRANCHES | {"CALL", "BSSY"}
_SPLITS = _BRANCHES | _ENDS | {"BSYNC", "CALL", "BPT"}


@dataclass
class Block:
    number: int
    instructions: list[Instruction]
    successors: list[int] = field(default_factory=list)
    predecessors: list[int] = field(default_factory=list)
    callees: list[int] = field(default_factory=list)  # addresses

    @property
    def last(self) -> Instruction:
        return self.instructions[-1]


@dataclass(frozen=True)
class Loop:
    head: int
    body: frozenset[int]
    latches: tuple[int, ...]


def conditions(branch: Instruction) -> list[str]:
    """What has to hold for a branch to be taken: its guard, and operands (BRA.U UP0, target; BRA.DIV ~URZ, target)."""
    before = branch.operands.partition("`")[0].replace(" ", "").split(",") if branch.name in ("BRA", "JMP") else []
    extra = [operand for operand in before if operand not in ("", "PT", "UPT") and not operand.startswith("0x")]
    return [branch.predicate, *extra] if branch.predicate else extra


class Graph:
    """Blocks reachable from the entry; called functions are graphs of their own."""

    def __init__(self, function: Function, entry: int | None = None) -> None:
        self.function = function
        self.unresolved: list[Instruction] = []  # indirect branches without known targets
        self.blocks = self._blocks()
        self.by_address = {block.instructions[0].address: block.number for block in self.blocks}
        start = function.instructions[0].address if entry is None else entry
        self.entry = self.by_address[start]
        self._connect()

    def _blocks(self) -> list[Block]:
        function = self.function
        starts = {0}
        for i, instruction in enumerate(function.instructions):
            if instruction.name in _SPLITS:
                starts.add(i + 1)
            if instruction.name in _LABELLED:
                starts |= {function.index[address] for address in function.targets(instruction)}
        starts |= {function.index[address] for address in function.labels.values() if address in function.index}
        ordered = sorted(i for i in starts if i < len(function.instructions))
        ends = [*ordered[1:], len(function.instructions)]
        pairs = enumerate(zip(ordered, ends, strict=True))
        return [Block(n, function.instructions[begin:end]) for n, (begin, end) in pairs]

    def _following(self, block: Block) -> list[int]:
        return [block.number + 1] if block.number + 1 < len(self.blocks) else []

    def _successors(self, block: Block, barriers: dict[str, frozenset[int]]) -> list[int]:
        last, following = block.last, self._following(block)
        if last.name in _BRANCHES:
            found = [self.by_address[address] for address in self.function.targets(last)]
            if not found:
                self.unresolved.append(last)
            return [*found, *(following if conditions(last) else [])]
        if last.name in _ENDS:
            return following if last.predicate else []
        if last.name == "BPT" and not last.predicate:
            return []
        if last.name == "BSYNC":
            register = last.operands.split(",")[-1].strip()
            joined = [self.by_address[address] for address in sorted(barriers.get(register, ()))]
            return joined or following
        if last.name == "CALL" and (targets := self.function.targets(last)):
            if self._is_jump(last):
                return [*(self.by_address[t] for t in targets), *(following if last.predicate else [])]
            block.callees = [] if last.predicate else targets  # the shortest way does not take a guarded call
        return following

    def _is_jump(self, call: Instruction) -> bool:
        """ptxas leaves a loop by CALL.REL.NOINC at times: to a local label, where nothing returns."""
        return "`(.L_" in call.operands or not self.function.returns

    def _connect(self) -> None:
        """Follows the code from the entry; where a BSYNC goes is told by the BSSY that reach it."""
        states: dict[int, dict[str, frozenset[int]]] = {self.entry: {}}
        queue = [self.entry]
        while queue:
            block = self.blocks[queue.pop()]
            state = dict(states[block.number])
            for instruction in block.instructions:
                if instruction.name == "BSSY" and (targets := self.function.targets(instruction)):
                    state[instruction.operands.partition(",")[0].strip()] = frozenset(targets)
            self.unresolved = [i for i in self.unresolved if i is not block.last]
            block.successors = list(dict.fromkeys(self._successors(block, state)))
            for successor in block.successors:
                known = states.get(successor)
                merged = dict(known or {})
                for register, targets in state.items():
                    merged[register] = merged.get(register, frozenset()) | targets
                if known is None or merged != known:
                    states[successor] = merged
                    queue.append(successor)
        self.reachable = frozenset(states)
        for number in self.reachable:
            for successor in self.blocks[number].successors:
                self.blocks[successor].predecessors.append(number)

    @functools.cached_property
    def order(self) -> list[int]:
        """Reverse postorder of the reachable blocks."""
        seen, finished = {self.entry}, []
        stack = [(self.entry, iter(self.blocks[self.entry].successors))]
        while stack:
            number, successors = stack[-1]
            fresh = next((s for s in successors if s not in seen), None)
            if fresh is None:
                finished.append(number)
                stack.pop()
            else:
                seen.add(fresh)
                stack.append((fresh, iter(self.blocks[fresh].successors)))
        return finished[::-1]

    @functools.cached_property
    def dominators(self) -> dict[int, int]:
        """The immediate dominator of every block but the entry, whose own it is (Cooper, Harvey and Kennedy)."""
        place = {number: i for i, number in enumerate(self.order)}
        found = {self.entry: self.entry}

        def common(a: int, b: int) -> int:
            while a != b:
                while place[a] > place[b]:
                    a = found[a]
                while place[b] > place[a]:
                    b = found[b]
            return a

        changed = True
        while changed:
            changed = False
            for number in self.order[1:]:
                above = [p for p in self.blocks[number].predecessors if p in found]
                new = functools.reduce(common, above)
                changed |= found.get(number) != new
                found[number] = new
        return found

    def dominates(self, above: int, number: int) -> bool:
        while number not in (above, self.entry):
            number = self.dominators[number]
        return number == above

    @functools.cached_property
    def loops(self) -> list[Loop]:
        """Natural loops; those with one head are one loop. In the order of their heads."""
        latches: dict[int, list[int]] = {}
        for number in self.order:
            for successor in self.blocks[number].successors:
                if self.dominates(successor, number):
                    latches.setdefault(successor, []).append(number)
        loops = []
        for head, ends in sorted(latches.items()):
            body, stack = {head}, list(ends)
            while stack:
                number = stack.pop()
                if number not in body:
                    body.add(number)
                    stack += self.blocks[number].predecessors
            loops.append(Loop(head, frozenset(body), tuple(sorted(ends))))
        return loops

    @functools.cached_property
    def innermost(self) -> dict[int, Loop]:
        """The smallest loop around a block; blocks outside of all loops are not in it."""
        return {n: loop for loop in sorted(self.loops, key=lambda loop: -len(loop.body)) for n in loop.body}

    def accesses(self, numbers: Iterable[int], kind: str) -> list[Instruction]:
        return [i for n in sorted(numbers) for i in self.blocks[n].instructions if i.global_access == kind]

    def own(self, loop: Loop) -> list[int]:
        """Blocks of a loop that are in no loop inside it."""
        return [number for number in loop.body if self.innermost[number] is loop]

    def main_loop(self, wanted: Mapping[tuple[str, int], int] | None = None) -> Loop | None:
        """The loop that has most of the ``wanted`` accesses (load or store, bytes: how many), if any are named; then
        the one with the widest global loads (stores where it loads nothing), then the one that moves the most."""

        def weight(loop: Loop) -> tuple[int, ...]:
            own = self.own(loop)
            loads, stores = self.accesses(own, "load"), self.accesses(own, "store")
            seen = Counter((i.global_access, i.bytes) for i in loads + stores)
            covered = sum(min(seen[access], n) * access[1] for access, n in (wanted or {}).items())
            size = sum(len(self.blocks[n].instructions) for n in own)
            widest = [max((i.bytes for i in accesses), default=0) for accesses in (loads, stores)]
            return (covered, *widest, sum(i.bytes for i in loads), size)

        return max(self.loops, key=weight, default=None)
