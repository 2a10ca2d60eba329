"""What a site has given away of its privacy: a file beside its library that only it writes and reads."""

from __future__ import annotations

import json
from pathlib import Path

from fieldstone.atomic import write_json
from fieldstone.errors import FederationError
from fieldstone.federate.privacy import epsilon


def spent(ledger: Path) -> list[float]:
    """The multiplier of each noised update that has left this site, 0 for one without noise."""
    try:
        return [float(its) for its in json.loads(ledger.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise FederationError(
            f"{ledger} is damaged ({error}), so nobody knows what has been spent; put it back from a copy"
        ) from None


def spend(ledger: Path, multiplier: float, most: float, at_delta: float) -> None:
    """Note an update before it leaves. Raises FederationError where it would be past `most`; 0: no bound."""
    after = [*spent(ledger), multiplier]
    if most and (would := epsilon(after, at_delta)) > most * (1 + 1e-6):
        raise FederationError(
            f"this update would bring the privacy spent to epsilon = {would:.3g}, past federate.epsilon = "
            f"{most:g} of this site; raise it if that is what you want"
        )
    write_json(ledger, after)
