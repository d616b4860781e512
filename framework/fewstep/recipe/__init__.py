"""Recipes: YAML files that are composed, validated and checked before any training starts.

No file is a component.
"""

from fewstep.recipe.loading import (
    LoadedRecipe,
    dump_recipe,
    load_recipe,
    load_run_recipe,
    locate,
    parse_recipe,
    validate_file,
    with_metrics,
    with_sampler,
)

__all__ = [
    "LoadedRecipe",
    "dump_recipe",
    "load_recipe",
    "load_run_recipe",
    "locate",
    "parse_recipe",
    "validate_file",
    "with_metrics",
    "with_sampler",
]
