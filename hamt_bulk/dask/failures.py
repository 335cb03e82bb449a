"""What goes wrong in a task, in a form in which whoever waits for it gets to know."""

import pickle
from collections.abc import Iterator

import cloudpickle

MAX_TEXT = 5_000
"""
Characters of a message that is sent as it is. Distributed cuts off what is longer than some (10,000, unless configured
otherwise), and with it the note that says in which chunk it was.
"""


def noted(error: BaseException, note: str, *, travels: bool) -> BaseException:
    """
    What a task raises for `error`: the error itself with a `note`, where that arrives.

    Else a `RuntimeError` that says the same: for what cannot be pickled or is too long, where it `travels` to another
    process; and for what is no `Exception`, such as a reader's `SystemExit`, which ends workers. Raise it outside of the
    `except` block, or it takes along what it was made from.
    """
    arrives = isinstance(error, Exception)
    if travels and arrives:
        arrives = _arrives(error)
        for link in _chain(error):
            if not all(before is None or _arrives(before) for before in (link.__cause__, link.__context__)):
                link.__cause__ = link.__context__ = None
    if not arrives:
        told = RuntimeError(f"{type(error).__name__}: {_text(error)}")
        error = told.with_traceback(error.__traceback__)
    error.add_note(note)
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, each once."""
    seen: dict[int, BaseException] = {}
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in seen:
            seen[id(link)] = link
            yield link
            waiting += (link.__cause__, link.__context__)


def _arrives(error: BaseException) -> bool:
    """Whether it is the same error after it was pickled, as far as a type and a text tell."""
    try:
        text = str(error)
        found = pickle.loads(cloudpickle.dumps(error))
        return len(text) <= MAX_TEXT and type(found) is type(error) and str(found) == text
    except Exception:  # pickling calls what the error's class has made of it, which may raise anything
        return False


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as other:
        return f"its text cannot be had ({type(other).__name__})"
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text):,} characters)"
