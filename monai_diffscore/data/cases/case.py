"""A case is one session of one subject, with its images and masks by role."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from monai_diffscore.data.tree import LeftOut
from monai_diffscore.errors import DataError

_SHOWN = 12
#: the condition whose value is the role of an image
CONTRAST = "contrast"
_ALONE = "mask without an image"
#: reasons that a warning does not repeat
_QUIET = ("no image by its ending", "hidden file", "hidden folder")
#: mask to value to names
ClassNames = Mapping[str, Mapping[int, Sequence[str]]]


@dataclass(frozen=True)
class Case:
    """One session of one subject.

    Args:
        subject: name of the patient or animal; all cases of one subject stay on one side of a split.
        session: of the subject; "" if the layout has no sessions.
        images: path by role (``t1``, ``flair``, ``ct``, ...), as :class:`~monai_diffscore.data.LoadVolumed` takes it.
        masks: path by name: label maps, probability maps, regions. A mask is never an image.
        facts: further facts of the layout: ``run``, ``split`` (of the data set itself), ``dataset``, conditions.
    """

    subject: str
    session: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cases:
    """The cases of a folder, and the files that are left out.

    Args:
        root: the requested path.
        layout: name of the folder's layout.
        cases: sorted by their first image.
        left_out: files and folders that are not read, with the reason.
        notes: assumptions of the layout, one line each.
        masks_alone: the cases without an image, whose masks are left out.
        class_names: of the label maps by the name of the mask: value to the names that the files state, usually one.
    """

    root: str
    layout: str
    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    masks_alone: tuple[Case, ...] = ()
    class_names: ClassNames = field(default_factory=dict)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def roles(self) -> dict[str, int]:
        """Number of cases with an image of each role, the commonest role first."""
        return _by_count(role for case in self.cases for role in case.images)

    @property
    def masks(self) -> dict[str, int]:
        """Number of cases with a mask of each name, the commonest name first."""
        return _by_count(name for case in self.cases for name in case.masks)

    @property
    def subjects(self) -> list[str]:
        """The subjects, sorted, each once."""
        return sorted({case.subject for case in self.cases})

    @property
    def reasons(self) -> dict[str, int]:
        """Number of files and folders that are left out for each reason, the commonest reason first."""
        return _by_count(one.reason for one in self.left_out)

    @property
    def reasons_to_tell(self) -> str:
        """The reasons with their counts, without those of files that nobody takes for images."""
        counts = {reason: count for reason, count in self.reasons.items() if reason not in _QUIET}
        return ", ".join(f"{count} x {reason}" for reason, count in counts.items())

    def warn_of_left_out(self, stacklevel: int = 3) -> None:
        """Warns in one line of the files that are left out."""
        if self.reasons_to_tell:
            warnings.warn(f"{self.root}: left out {self.reasons_to_tell}.", stacklevel=stacklevel)

    def with_masks_alone(self) -> Cases:
        """The same with the cases of masks alone, for a task that draws their images."""
        left_out = tuple(one for one in self.left_out if one.reason != _ALONE)
        return replace(self, cases=(*self.cases, *self.masks_alone), left_out=left_out, masks_alone=())

    def images(
        self, image: str | Sequence[str] = "", key: str = "image", conditions: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """The images to train on, sorted by path: ``{key: path, "subject": name}``, and the stated conditions.

        Args:
            image: role, or roles with commas between them, which become the channels of one image. "" takes the only
                role.
            key: of the path, or of the list of paths of several channels.
            conditions: names of conditions. Each item has those that the case states as facts. "contrast" makes an
                image of each role, with the role as the value.
        Raises:
            DataError: for several roles and no choice of one; for a role without a case.
        """
        roles = role_names(image)
        pooled = CONTRAST in conditions
        if not roles:
            roles = list(self.roles)
            if len(roles) > 1 and not pooled:
                raise self._problem("one image a case, or the role of the one to take", key)
        missing_roles = [role for role in roles if role not in self.roles]
        if missing_roles:
            raise self._problem(f"images of the role {', '.join(missing_roles)}", key)
        items: list[dict[str, Any]] = []
        for case in self.cases:
            stated = {"subject": case.subject, **{name: case.facts[name] for name in conditions if name in case.facts}}
            if pooled:
                items += [{key: case.images[role], **stated, CONTRAST: role} for role in roles if role in case.images]
            elif all(role in case.images for role in roles):
                items.append({key: _channels([case.images[role] for role in roles]), **stated})
        if not items:
            raise self._problem(f"cases with all of {', '.join(roles)}", key)
        return sorted(items, key=lambda item: str(item[key]))

    def pairs(
        self,
        image: str,
        given: str | Sequence[str],
        key: str = "image",
        conditions: Collection[str] = (),
        incomplete: bool = False,
        complete: bool = False,
    ) -> list[dict[str, Any]]:
        """The images of a role with the other images and masks of their case, sorted by path.

        ``{key: path, "given": [path or None for each role], "subject": name}``, and the stated conditions.

        Args:
            image: role of the target.
            given: roles of the other images, and names of masks, in the order of their channels. A case may lack some,
                or all.
            key: of the path of the target.
            conditions: names of conditions. Each item has those that the case states as facts.
            incomplete: list the cases with one of the other images, also those without the target. The path of the
                first other image then is that of the target: its grid. Each item then has ``has_target``.
            complete: list only the cases with all of the other images.
        Raises:
            DataError: unless ``image`` is one role and ``given`` other ones; for a role without a case, except the
                target of incomplete cases; for no case.
        """
        roles = role_names(given)
        if len(role_names(image)) != 1 or not roles or len({image, *roles}) != 1 + len(roles):
            raise self._problem(
                f"one role of --image, and other roles of --given (they are {image!r} and {','.join(roles)!r})", key
            )
        missing_roles = [role for role in roles if role not in self.roles and role not in self.masks]
        missing_roles += [] if incomplete or image in self.roles else [image]
        if missing_roles and (not incomplete or len(missing_roles) == len(roles)):
            raise self._problem(f"images of the role {', '.join(missing_roles)}", key)
        items: list[dict[str, Any]] = []
        for case in self.cases:
            paths = [case.images.get(role, case.masks.get(role)) for role in roles]
            target = case.images.get(image)
            if incomplete:
                images = [case.images[role] for role in roles if role in case.images]
                others = [*images, *filter(None, paths)]  # an image is the better grid
                target = (target or others[0]) if others else None
            if target is None or (complete and None in paths):
                continue
            stated = {name: case.facts[name] for name in conditions if name in case.facts}
            items.append({key: target, "given": paths, "subject": case.subject, **stated})
            if incomplete:
                items[-1]["has_target"] = image in case.images
        if not items:
            expected = f"the target and all of {', '.join(roles)}" if complete else f"one of {', '.join(roles)}"
            raise self._problem(f"cases with {expected}", key)
        return sorted(items, key=lambda item: str(item[key]))

    def _problem(self, expected: str, key: str) -> DataError:
        masks = f" and the masks {counts_text(self.masks)}" if self.masks else ""
        return DataError(
            self.root,
            key=key,
            expected=expected,
            got=f"the roles {counts_text(self.roles) or 'none'}{masks} (layout {self.layout})",
            remedy="Choose with --image ROLE (or ROLE,ROLE for channels of one model; plan --condition contrast makes "
            "images of all roles and tells them apart); "
            "`python -m monai_diffscore cases FOLDER` prints what is read; its --write TABLE writes a table to edit, "
            "which takes the place of the folder.",
        )


def _by_count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def add_class_names(total: dict[str, dict[int, list[str]]], names: ClassNames) -> None:
    """Adds names of classes to ``total``, each name once."""
    for mask, of_mask in names.items():
        for value, several in of_mask.items():
            present = total.setdefault(mask, {}).setdefault(value, [])
            present += [name for name in several if name not in present]


def role_names(roles: str | Sequence[str]) -> list[str]:
    """The names of roles: of a list, or of a text with commas between them."""
    return [name.strip() for name in (roles.split(",") if isinstance(roles, str) else roles) if name.strip()]


def counts_text(counts: Mapping[str, int]) -> str:
    """Names with their counts, ``t1 (5), t2 (3)``; shortens a long list."""
    texts = [f"{name} ({count})" for name, count in list(counts.items())[:_SHOWN]]
    more = len(counts) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")


def _channels(paths: Sequence[str]) -> str | list[str]:
    """One path, or the list of several; the file itself for all of its channels in order."""
    if len(paths) == 1:
        return paths[0]
    files = {path.rpartition("/channel:")[0] for path in paths}
    numbers = [path.rpartition("/channel:")[2] for path in paths]
    in_order = numbers == [str(number) for number in range(len(paths))]
    return files.pop() if len(files) == 1 and "" not in files and in_order else list(paths)


class Casebook:
    """Collects images and masks while a layout reads its files.

    Two images of one role in a session whose names differ are two contrasts: the variant then extends this role in all
    cases (``t1_mprage``, ``t1_tse``). Without different variants the second is another run: another case of the same
    subject.
    """

    def __init__(self) -> None:
        self._cases: dict[tuple[str, str, str], Case] = {}
        self._images: list[tuple[Case, str]] = []
        self._left_out: list[LeftOut] = []
        self._notes: list[str] = []
        self._class_names: dict[str, dict[int, list[str]]] = {}

    def add_image(
        self,
        subject: str,
        session: str,
        role: str,
        path: str,
        facts: Mapping[str, str] | None = None,
        variant: str = "",
    ) -> None:
        """Adds an image under its role; ``variant`` are the words that tell two images of this role apart."""
        self._images.append((Case(subject, session, {role: path}, facts=facts or {}), variant))

    def _sort_images(self) -> None:
        """Adds the images to their cases, under the names of their roles."""
        variants: dict[tuple[str, str, str, str], set[str]] = {}
        for image, variant in self._images:
            (role,) = image.images
            variants.setdefault((role, image.subject, image.session, image.facts.get("run", "")), set()).add(variant)
        several = {role for (role, *_), names in variants.items() if len(names) > 1}
        for image, variant in self._images:
            ((role, path),) = image.images.items()
            extends = role in several and variant not in ("", role)
            name = (variant if role == "image" else f"{role}_{variant}") if extends else role
            facts = dict(image.facts)
            run, number = facts.get("run", ""), 1
            while name in self._case(image.subject, image.session, run).images:
                number += 1
                run = str(number)
            if run:
                facts["run"] = run
            case = self._case(image.subject, image.session, run)
            self._cases[image.subject, image.session, run] = replace(
                case, images={**case.images, name: path}, facts={**case.facts, **facts}
            )

    def add_mask(self, subject: str, session: str, name: str, path: str, run: str = "") -> None:
        """Adds a mask under its name."""
        case, number, own = self._case(subject, session, run), 1, name
        while own in case.masks:
            number += 1
            own = f"{name}{number}"
        self._cases[subject, session, run] = replace(case, masks={**case.masks, own: path})

    @property
    def masks(self) -> set[str]:
        """The names of the masks."""
        return {name for case in self._cases.values() for name in case.masks}

    def name_classes(self, mask: str, names: Mapping[int, str]) -> None:
        """Adds names of the classes of a label map."""
        add_class_names(self._class_names, {mask: {value: [name] for value, name in names.items()}})

    def leave_out(self, path: object, reason: str) -> None:
        """Records that a file is not read."""
        self._left_out.append(LeftOut(str(path), reason))

    def note(self, text: str) -> None:
        """Adds a line on an assumption of the layout."""
        self._notes.append(text)

    def close(self, root: object, layout: str) -> Cases:
        """The collected cases; leaves out masks of a case without images."""
        self._sort_images()
        masks_alone = tuple(case for case in self._cases.values() if not case.images)
        self._left_out += [LeftOut(path, _ALONE) for case in masks_alone for path in case.masks.values()]
        cases = [case for case in self._cases.values() if case.images]
        cases.sort(key=lambda case: min(case.images.values()))
        left_out, notes = tuple(self._left_out), tuple(self._notes)
        return Cases(str(root), layout, tuple(cases), left_out, notes, masks_alone, self._class_names)

    def _case(self, subject: str, session: str, run: str) -> Case:
        return self._cases.get((subject, session, run), Case(subject, session))
