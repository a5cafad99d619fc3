"""The two ways a run ends early that are not bugs."""


class KitError(Exception):
    """A user's mistake or a refusal: names the thing, the value and the remedy in one paragraph. No traceback is shown."""


class Suspended(Exception):
    """This session's time is over before the plan is. Not an error: the same command goes on from here."""
