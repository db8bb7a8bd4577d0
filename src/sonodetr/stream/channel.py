"""A bounded queue between two threads, which either end can close."""

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Channel(Generic[Item]):
    """At most `size` items on their way from one thread to another.

    >>> slot = Channel[str](1, newest_wins=True)
    >>> slot.put("first"), slot.put("second")  # each says how many items were lost by it
    (0, 1)
    >>> slot.close()
    >>> list(slot)
    ['second']

    Args:
        size: most items in it.
        newest_wins: a full channel loses its oldest item; otherwise whoever puts one in waits.
    """

    def __init__(self, size: int, *, newest_wins: bool) -> None:
        self._items: deque[Item] = deque()
        self._size, self._newest_wins = size, newest_wins
        self._closed = self._abandoned = False
        self._changed = Condition()

    def put(self, item: Item) -> int:
        """Put an item in; the number lost by it: 1 if the oldest went, or nobody takes any more."""
        with self._changed:
            while len(self._items) >= self._size and not (self._newest_wins or self._abandoned):
                self._changed.wait()
            if self._abandoned:
                return 1
            lost = len(self._items) >= self._size
            if lost:
                self._items.popleft()
            self._items.append(item)
            self._changed.notify_all()
            return int(lost)

    def close(self) -> None:
        """No more items will come; those in it can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> int:
        """Nobody takes items any more; how many were still in it."""
        with self._changed:
            self._abandoned = self._closed = True
            lost = len(self._items)
            self._items.clear()
            self._changed.notify_all()
            return lost

    def __iter__(self) -> Iterator[Item]:
        """The items in order, waiting for each, until the channel is closed and empty."""
        while True:
            with self._changed:
                while not self._items and not self._closed:
                    self._changed.wait()
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # a frame must not stay in memory while the next one is waited for
