"""`fieldstone recipes`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fieldstone.cli.options import Json


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this one in full.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """List the recipes, with their sources and what they cost."""
    from rich.text import Text

    from fieldstone import recipes
    from fieldstone.cli.output import show, show_json

    listed = [recipes.load_recipe(name)] if name else recipes.recipes()
    if json:
        show_json({"recipes": [asdict(recipe) for recipe in listed]})
        return
    for recipe in listed:
        default = " (the default)" if recipe.name == recipes.DEFAULT else ""
        show(Text.assemble((recipe.name, "bold"), default))
        show(recipe.summary, indent=2)
        show(f"steps   {', '.join(recipe.steps)}", indent=2)
        show(f"source  {recipe.source}", indent=2)
        show(f"cost    {recipe.cost}", indent=2)
        if recipe.sizes:
            usual, *others = recipe.sizes
            show(f"sizes   {', '.join([f'{usual} (the default)', *others])}", indent=2)
        for label, tree in [("set", recipe.settings), *recipe.sizes.items()] if name else ():
            for section, values in tree.items():
                for setting, value in values.items() if isinstance(values, dict) else ():
                    show(f"{label:<7} {section}.{setting} = {value}", indent=2)
