"""Control flow of one function: basic blocks, loops, and the hot path through a loop."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.sass.parse import Function, Instruction

_BRANCHES = {"BRA", "BRX", "BRXU", "JMP", "JMX", "JMXU"}
_ENDS = {"EXIT", "RET", "KILL", "RTT"}
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


@dataclass(frozen=True)
class Path:
    blocks: tuple[int, ...]
    instructions: tuple[Instruction, ...]  # those of called functions included
    nested: tuple[int, ...]  # heads of loops inside, each counted as one iteration
    calls: int
    longest: int  # instructions of the longest way that does the same work, loops inside counted once

    def __len__(self) -> int:
        return len(self.instructions)


def conditional(function: Function, branch: Instruction) -> bool:
    """Guarded, or with predicates among the operands (BRA.U UP0, target; BRA.DIV ~URZ, target)."""
    before = branch.operands.partition("`")[0].replace(" ", "").split(",")
    extra = [operand for operand in before if operand not in ("", "PT", "UPT") and not operand.startswith("0x")]
    return bool(branch.predicate) or (branch.name in ("BRA", "JMP") and bool(extra))


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
            return [*found, *(following if conditional(self.function, last) else [])]
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
        return "`(.L_" in call.operands or not any(i.name == "RET" for i in self.function.instructions)

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

    @functools.cached_property
    def main_loop(self) -> Loop | None:
        """The loop with the widest global loads (stores where it loads nothing); then the one that moves the most."""

        def weight(loop: Loop) -> tuple[int, ...]:
            own = self.own(loop)
            loads, stores = self.accesses(own, "load"), self.accesses(own, "store")
            size = sum(len(self.blocks[n].instructions) for n in own)
            widest = [max((i.bytes for i in accesses), default=0) for accesses in (loads, stores)]
            return (*widest, sum(i.bytes for i in loads), size)

        return max(self.loops, key=weight, default=None)

    def _body(self, number: int) -> tuple[list[Instruction], int]:
        """Instructions of a block with those of the functions it calls (the shortest way through them)."""
        block = self.blocks[number]
        called: list[Instruction] = []
        for address in block.callees:
            graph = Graph(self.function, address)
            called += graph.hot_path(None, None, must_load=False).instructions
        return block.instructions + called, len(block.callees)

    def hot_path(self, loop: Loop | None, expected: int | None = None, *, must_load: bool = True) -> Path:
        """The way from the head of a loop to its latch (or from the entry to an end) that does the loop's work
        with the fewest instructions.

        Work is bytes of global memory, ``expected`` of them if given, else as many as one way can move in accesses as
        wide as the widest load: a way that skips the work (a guard, an empty tile) is no hot path, and a way around a
        rare case is.
        """
        inside = loop.body if loop else self.reachable
        start = loop.head if loop else self.entry
        ends = set(loop.latches) if loop else {n for n in inside if not self.blocks[n].successors}
        place = {number: i for i, number in enumerate(self.order)}
        bodies = {number: self._body(number) for number in inside}
        cost = {number: len(body) for number, (body, _) in bodies.items()}
        every = [i for body, _ in bodies.values() for i in body if i.global_access and must_load]
        least = 0 if expected else max((i.bytes for i in every if i.global_access == "load"), default=0)
        counted = {id(i) for i in every if i.bytes >= least}
        work = {n: sum(i.bytes for i in body if id(i) in counted) for n, (body, _) in bodies.items()}
        if loop is None and len(ends) > 1 and not must_load:
            ends = {n for n in ends if self.blocks[n].last.name == "RET"} or ends
        # Of every block: bytes moved so far -> (fewest instructions, the way), and -> most instructions
        ways: dict[int, dict[int, tuple[int, tuple[int, ...]]]] = {n: {} for n in inside}
        first = min(work[start], expected) if expected else work[start]
        ways[start][first] = (cost[start], (start,))
        longest: dict[int, dict[int, int]] = {n: {} for n in inside}
        longest[start][first] = cost[start]
        for number in sorted(inside, key=place.__getitem__):
            for successor in self.blocks[number].successors:
                if successor not in inside or place[successor] <= place[number]:
                    continue
                for moved, (count, way) in ways[number].items():
                    key = moved + work[successor]
                    key = min(key, expected) if expected else key
                    new = (count + cost[successor], (*way, successor))
                    if key not in ways[successor] or new < ways[successor][key]:
                        ways[successor][key] = new
                    most = longest[number][moved] + cost[successor]
                    longest[successor][key] = max(most, longest[successor].get(key, 0))
        finished = [
            (moved, -count, way, longest[end][moved])
            for end in ends & inside
            for moved, (count, way) in ways[end].items()
        ]
        if not finished:
            return Path((), (), (), 0, 0)
        _, _, way, _ = max(finished, key=lambda f: (f[0], f[1], [-n for n in f[2]]))
        most = max(f[3] for f in finished if f[0] == max(f[0] for f in finished))
        instructions = tuple(i for number in way for i in bodies[number][0])
        nested = tuple(other.head for other in self.loops if other != loop and other.head in way)
        return Path(way, instructions, nested, sum(bodies[number][1] for number in way), most)
