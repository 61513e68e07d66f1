"""What was found in data, as text, HTML and a data frame."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np

SEVERITIES = ("error", "warning", "note")
# number of structures that text lists by their positions
MOST_LISTED = 6


@dataclass(frozen=True, eq=False)
class Finding:
    """Something in the data that is wrong, doubtful or worth knowing.

    Parameters
    ----------
    name : str
        What it is, e.g. ``"duplicates"``; the same for the same fault in other data.
    severity : {"error", "warning", "note"}
        An error spoils a fit; a warning may be intended; a note is no fault.
    structures : array of int
        Positions in X of the structures in question.
    message : str
        What was seen, in numbers, and what to do about it.
    """

    name: str
    severity: str
    structures: np.ndarray
    message: str

    @property
    def where(self):
        """The structures as text."""
        listed = ", ".join(str(k) for k in self.structures[:MOST_LISTED])
        rest = f", ... ({len(self.structures)} in all)" * (len(self.structures) > MOST_LISTED)
        return f"structure{'s' * (len(self.structures) > 1)} {listed}{rest}" if listed else ""


class DataReport:
    """Findings of :func:`~sklearn_soapbpnn.check_data`, the most severe first.

    It is printed with one line per finding; notebooks show a table.

    Parameters
    ----------
    findings : sequence of Finding
        What was found.
    title : str
        What was checked, e.g. ``"500 structures with energy, forces"``.
    unchecked : str, default=""
        What could not be checked, and why.

    Attributes
    ----------
    findings : list of Finding
        Errors first, then warnings, then notes. Each has the attributes ``name``, ``severity``,
        ``structures`` (positions in X) and ``message``.
    """

    def __init__(self, findings, title, unchecked=""):
        self.findings = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
        self.title = title
        self.unchecked = unchecked

    @property
    def counts(self):
        """Numbers of errors and warnings as text; empty if there are none."""
        numbers = {
            severity: sum(finding.severity == severity for finding in self.findings)
            for severity in SEVERITIES[:2]
        }
        return ", ".join(f"{n} {what}{'s' * (n > 1)}" for what, n in numbers.items() if n)

    @property
    def headline(self):
        """One line: how many errors and warnings there are."""
        if not self.counts:
            return f"No problems found in {self.title}."
        return f"{self.counts} in {self.title}:"

    @property
    def names(self):
        """Names of the errors and warnings, each once."""
        names = (finding.name for finding in self.findings if finding.severity != "note")
        return list(dict.fromkeys(names))

    def to_frame(self):
        """Return the findings as a pandas DataFrame.

        Returns
        -------
        DataFrame
            The columns ``name``, ``severity``, ``structures`` and ``message``, a row per finding.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as err:
            raise ImportError("to_frame needs pandas: pip install pandas") from err
        columns = ["name", "severity", "structures", "message"]
        rows = [[getattr(finding, column) for column in columns] for finding in self.findings]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self):
        lines = [self.headline]
        for finding in self.findings:
            where = f" [{finding.where}]" if finding.where else ""
            lines.append(f"  {finding.severity:7}  {finding.name}: {finding.message}{where}")
        if self.unchecked:
            lines.append(f"  Not checked: {self.unchecked}")
        return "\n".join(lines)

    def _repr_html_(self):
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align: left; vertical-align: top">{escape(text)}</td>'
                for text in (finding.severity, finding.name, finding.message, finding.where)
            )
            + "</tr>"
            for finding in self.findings
        )
        unchecked = f"<p>Not checked: {escape(self.unchecked)}</p>" if self.unchecked else ""
        return f"<p>{escape(self.headline)}</p><table>{rows}</table>{unchecked}"
