"""CelebA (Liu et al. 2015): 202,599 aligned faces (178x218) with forty binary attributes.

The task is that of ML-DOCTOR's code: eight classes from the attributes 18, 21 and 31 of the list, counted from 0; the attributes to be inferred are
20 and 39, together as four values.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmark.data.dataset import DataError
from benchmark.data.layouts import existing, first_folder
from benchmark.data.source import Item, Source

source = Source(
    title="CelebA, aligned faces",
    terms="non-commercial research only",
    get="img_align_celeba.zip (unpacked), list_attr_celeba.txt and list_eval_partition.txt from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, "
    "in one folder, as torchvision has them",
    views={"32": (3, 32, 32), "64": (3, 64, 64), "216x176": (3, 216, 176), "218x178": (3, 218, 178)},
    classes=("---", "--S", "-M-", "-MS", "H--", "H-S", "HM-", "HMS"),
    attributes={"male": 2, "young": 2, "male_young": 4},
    expected={"images": 202_599, "classes": 8, "train": 162_770, "test": 19_962},
)
TASK = ("Heavy_Makeup", "Mouth_Slightly_Open", "Smiling")
"""The attributes whose values, as three binary digits, are the class: H, M and S in its name."""
ATTRIBUTES = {"male": "Male", "young": "Young"}
PARTS = ("train", "val", "test")


def read(folder: Path) -> Iterator[Item]:
    """The faces in the order of the list. Raises DataError for lists that do not agree."""
    base = first_folder(folder, "list_attr_celeba.txt", ".", "celeba", "Anno")
    images = existing(base, "img_align_celeba", "../img_align_celeba", "../Img/img_align_celeba")
    if (images / "img_align_celeba").is_dir():  # an archive unpacked into a folder of its own name
        images = images / "img_align_celeba"
    partition = existing(
        base, "list_eval_partition.txt", "../list_eval_partition.txt", "../Eval/list_eval_partition.txt"
    )
    part_of = dict(line.split() for line in partition.read_text("utf-8").splitlines() if line.strip())
    lines = (base / "list_attr_celeba.txt").read_text("utf-8").splitlines()
    names = lines[1].split() if len(lines) > 1 else []
    if missing := [a for a in (*TASK, *ATTRIBUTES.values()) if a not in names]:
        raise DataError(
            f"{base / 'list_attr_celeba.txt'}: line 2: expected the attribute {missing[0]}, given {', '.join(names) or 'none'}"
        )
    for number, line in enumerate(lines[2:], 3):
        file, *signs = line.split() or ("",)
        if not file:
            continue
        if len(signs) != len(names) or set(signs) - {"1", "-1"} or part_of.get(file) not in ("0", "1", "2"):
            raise DataError(
                f"{base / 'list_attr_celeba.txt'}: line {number}: expected {len(names)} values of 1 or -1, and a part 0 to 2 of {file} in "
                f"list_eval_partition.txt, given {len(signs)} and {part_of.get(file)}"
            )
        values = {name: int(sign == "1") for name, sign in zip(names, signs, strict=True)}
        label = 4 * values[TASK[0]] + 2 * values[TASK[1]] + values[TASK[2]]
        inferred = {a: values[n] for a, n in ATTRIBUTES.items()}
        inferred["male_young"] = 2 * inferred["male"] + inferred["young"]
        yield Item(images / file, label, inferred, PARTS[int(part_of[file])])
