"""The line of keys at the foot of a page."""

from __future__ import annotations

from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import Footer


class KeyLine(Footer):
    """Textual's footer, made again only when its keys are others.

    Textual makes it anew at each change of the page or the focus, that of the page left as well: fifteen widgets each
    time, which the next key would wait for.
    """

    def __init__(self) -> None:
        super().__init__(show_command_palette=False, compact=True)
        self._made_of: list[tuple[Binding, bool]] = []

    def bindings_changed(self, screen: Screen[object]) -> None:
        """See Textual."""
        if self._keys() != self._made_of:
            super().bindings_changed(screen)

    async def recompose(self) -> None:
        """See Textual."""
        self._made_of = self._keys()
        await super().recompose()

    def _keys(self) -> list[tuple[Binding, bool]]:
        active = self.screen.active_bindings.values()
        return [(each.binding, each.enabled) for each in active if each.binding.show]
