"""Images in a column of Parquet files, encoded as JPEG or PNG files are: how data sets of images are handed on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from compress.data.image_shards import ImageShards, Part
from compress.errors import DataError, listing

ROWS = 64  # that are read at a time


class ImageTable(ImageShards):
    """Rows of Parquet files with an image and its class.

    Images are bytes of image files, or structs with them in ``bytes``, as Hugging Face's ``datasets`` writes them.

    Attributes:
        image: column of the images.
        label: column of their classes, as texts or numbers; None where there are none. Names of numbers are read from
            what ``datasets`` writes beside them.
    """

    kind: ClassVar[str] = "image-table"
    suffix: ClassVar[str] = ".parquet"

    source: Literal["image-table"] = "image-table"
    image: str = "image"
    label: str | None = "label"

    def open_part(self, path: Path) -> Part:
        """Return a Parquet file whose columns have been looked at.

        Raises:
            DataError: when it is damaged or has no such columns.
        """
        return _Part.open(path, self.image, self.label)

    @property
    def columns(self) -> list[str | None]:
        """Image and label."""
        return [self.image, self.label]


@dataclass(frozen=True)
class _Part:
    """One Parquet file, whose columns have been looked at.

    Attributes:
        path: of the file.
        rows: how many it has.
        image: column of the images.
        label: column of the classes, or None.
        inside: whether images are structs.
        texts: whether classes are texts.
        names: of the classes, where it says them.
    """

    path: Path
    rows: int
    image: str
    label: str | None
    inside: bool
    texts: bool
    names: tuple[str, ...]

    @classmethod
    def open(cls, path: Path, image: str, label: str | None) -> "_Part":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError("the Parquet file cannot be read", got=str(error).splitlines()[0], where=path) from error
        schema = file.schema_arrow
        wanted = [image, *([] if label is None else [label])]
        if missing := [name for name in wanted if name not in schema.names]:
            raise DataError(
                "the table has no such column",
                expected=listing(schema.names),
                got=", ".join(missing),
                where=path,
                hint="name the columns with image: and label:, or leave classes out with label: null",
            )
        kind = schema.field(image).type
        inside = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        held = kind.field("bytes").type if inside else kind
        if not (pa.types.is_binary(held) or pa.types.is_large_binary(held)):
            raise DataError(
                "the column holds no images",
                expected="bytes of image files, or structs with such in `bytes`",
                got=str(kind),
                where=f"{path}, column {image}",
            )
        texts = False
        if label is not None:
            told = schema.field(label).type
            texts = pa.types.is_string(told) or pa.types.is_large_string(told)
            if not (pa.types.is_integer(told) or texts):
                raise DataError(
                    "the column holds no classes",
                    expected="texts or whole numbers",
                    got=str(told),
                    where=f"{path}, column {label}",
                )
        return cls(path, file.metadata.num_rows, image, label, inside, texts, _names(schema.metadata or {}, label))

    def cells(self) -> Iterator[tuple[Path, bytes, Any]]:
        """Yield where each image is, its bytes and its class.

        Raises:
            DataError: when a row has none, or the file is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [self.image, *([] if self.label is None else [self.label])]
        row = 0
        try:
            for batch in pq.ParquetFile(self.path).iter_batches(batch_size=ROWS, columns=columns):
                images = batch.column(self.image).to_pylist()
                labels = [None] * len(images) if self.label is None else batch.column(self.label).to_pylist()
                for image, label in zip(images, labels, strict=True):
                    where = Path(f"{self.path}, row {row}")
                    content = image.get("bytes") if self.inside and image is not None else image
                    if content is None or (self.label is not None and label is None):
                        raise DataError("a row has no image or no class", where=where)
                    yield where, content, label
                    row += 1
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                "the Parquet file cannot be read", got=str(error).splitlines()[0], where=f"{self.path}, after row {row}"
            ) from error


def _names(metadata: Mapping[bytes, bytes], label: str | None) -> tuple[str, ...]:
    """Return the names of classes that ``datasets`` writes beside a table; none where there are none."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (ValueError, KeyError, TypeError):
        return ()
