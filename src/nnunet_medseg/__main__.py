"""`python -m nnunet_medseg` is `medseg`."""

from nnunet_medseg.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
