"""The hot path: the way through a loop that does its work in the fewest instructions."""

from __future__ import annotations

from dataclasses import dataclass

from bench.sass.flow import Graph, Loop
from bench.sass.parse import Instruction
from bench.sass.predicates import NOTHING, Known, Predicates

MOST_STATES = 2000  # of one block; beyond it, what is known of predicates is forgotten there

Work = tuple[int, int]  # bytes moved as they should be, other bytes
State = tuple[Work, Known]


@dataclass(frozen=True)
class Wanted:
    """The work of an op on one path: its bytes, and the accesses (load or store, bytes) that should move them."""

    bytes: int
    accesses: frozenset[tuple[str, int]] = frozenset()  # none are named: any

    def has(self, instruction: Instruction) -> bool:
        return not self.accesses or (instruction.global_access, instruction.bytes) in self.accesses

    def add(self, done: Work, more: Work) -> Work:
        """What is beyond the work of the op is no reason to prefer a way."""
        named = min(done[0] + more[0], self.bytes)
        return named, min(done[1] + more[1], self.bytes - named)


@dataclass(frozen=True)
class Path:
    blocks: tuple[int, ...]
    instructions: tuple[Instruction, ...]  # those of called functions included
    nested: tuple[int, ...]  # heads of loops inside, each counted as one iteration
    calls: int
    longest: int  # instructions of the longest way that does the same work, loops inside counted once

    def __len__(self) -> int:
        return len(self.instructions)


@dataclass
class _Way:
    """The best way to a state, and the length of the longest."""

    cost: tuple[int, int]  # loops entered, instructions
    longest: int
    came_from: tuple[int, State] | None


def _body(graph: Graph, number: int) -> tuple[list[Instruction], int]:
    """Instructions of a block with those of the functions it calls (the shortest way through them)."""
    block = graph.blocks[number]
    called: list[Instruction] = []
    for address in block.callees:
        called += hot_path(Graph(graph.function, address), None, count_bytes=False).instructions
    return block.instructions + called, len(block.callees)


def _widest(instructions: list[Instruction]) -> Wanted:
    """Where no op is known: everything that moves in accesses as wide as the widest load."""
    least = max((i.bytes for i in instructions if i.global_access == "load"), default=0)
    named = [i for i in instructions if i.global_access and i.bytes >= least]
    return Wanted(sum(i.bytes for i in named), frozenset((i.global_access, i.bytes) for i in named) | {("", 0)})


def hot_path(graph: Graph, loop: Loop | None, wanted: Wanted | None = None, *, count_bytes: bool = True) -> Path:
    """From the head of a loop to its latch, or from the entry to an end.

    The way that does the most of the work that is ``wanted``; of these one that enters the fewest loops; of these the
    shortest. A way that skips the work (a guard, an empty tile) is no hot path, and a way around a rare case is. Ways
    that contradict themselves about a predicate do not exist.
    """
    inside = loop.body if loop else graph.reachable
    start = loop.head if loop else graph.entry
    ends = set(loop.latches) if loop else {n for n in inside if not graph.blocks[n].successors}
    if not count_bytes:
        ends = {n for n in ends if graph.blocks[n].last.name == "RET"} or ends
    place = {number: i for i, number in enumerate(graph.order)}
    bodies = {number: _body(graph, number) for number in inside}
    heads = {other.head for other in graph.loops if other != loop and other.head != start}
    if wanted is None:
        wanted = _widest([i for body, _ in bodies.values() for i in body]) if count_bytes else Wanted(0)
    work: dict[int, Work] = {}
    for number, (body, _) in bodies.items():
        moving = [i for i in body if i.global_access]
        named = sum(i.bytes for i in moving if wanted.has(i))
        work[number] = named, sum(i.bytes for i in moving) - named
    predicates = Predicates(graph)
    live = predicates.live()

    ways: dict[int, dict[State, _Way]] = {number: {} for number in inside}
    size = len(bodies[start][0])
    ways[start][wanted.add((0, 0), work[start]), NOTHING] = _Way((0, size), size, None)
    for number in sorted(inside, key=place.__getitem__):
        if len(ways[number]) > MOST_STATES:
            ways[number] = _forgetful(ways[number])
        for state, way in ways[number].items():
            for successor, known in predicates.edges(graph.blocks[number], state[1]):
                if successor not in inside or place[successor] <= place[number]:
                    continue
                kept = frozenset(item for item in known.items() if item[0] in live[successor])
                key = (wanted.add(state[0], work[successor]), kept)
                size = len(bodies[successor][0])
                cost = (way.cost[0] + (successor in heads), way.cost[1] + size)
                old = ways[successor].get(key)
                longest = max(way.longest + size, old.longest if old else 0)
                if old is None or cost < old.cost:
                    ways[successor][key] = _Way(cost, longest, (number, state))
                else:
                    old.longest = longest
    finished = [(state[0], way, end, state) for end in sorted(ends & inside) for state, way in ways[end].items()]
    if not finished:
        return Path((), (), (), 0, 0)
    most = max(done for done, *_ in finished)
    finished = [entry for entry in finished if entry[0] == most]
    _, way, end, state = min(finished, key=lambda entry: (entry[1].cost, entry[2], sorted(entry[3][1])))
    numbers = _walk_back(ways, end, state)
    return Path(
        numbers,
        tuple(i for number in numbers for i in bodies[number][0]),
        tuple(number for number in numbers if number in heads),
        sum(bodies[number][1] for number in numbers),
        max(entry[1].longest for entry in finished),
    )


def _walk_back(ways: dict[int, dict[State, _Way]], end: int, state: State) -> tuple[int, ...]:
    numbers = [end]
    while (before := ways[end][state].came_from) is not None:
        end, state = before
        numbers.append(end)
    return tuple(reversed(numbers))


def _forgetful(states: dict[State, _Way]) -> dict[State, _Way]:
    """One state for each number of bytes."""
    best: dict[State, _Way] = {}
    for (done, _), way in states.items():
        key = (done, NOTHING)
        if key not in best or way.cost < best[key].cost:
            best[key] = _Way(way.cost, max(way.longest, best[key].longest if key in best else 0), way.came_from)
    return best
