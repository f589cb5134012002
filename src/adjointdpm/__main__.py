"""``python -m adjointdpm``."""

from .cli import main

raise SystemExit(main())
