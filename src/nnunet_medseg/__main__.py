"""`python -m nnunet_medseg` is `medseg`."""

from nnunet_medseg.cli.main import program

if __name__ == "__main__":
    raise SystemExit(program())
