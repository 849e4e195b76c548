"""The Delta Lake backend of iftb-store: bars in one Delta table on a local disk or S3, shared by any number of clients."""

from iftb_store_lake.backend import LakeBackend

__all__ = ["LakeBackend"]
