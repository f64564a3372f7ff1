"""Plain text for Markdown, LaTeX and HTML: names that people choose may hold whatever these languages reserve.

In running words `code` between backticks is set as code.
"""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape


def one_line(text: str) -> str:
    """Line breaks and other signs that control rather than show become spaces: no text may end its row or comment."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


# What Markdown would take for more than text: emphasis, links, tags and entities, and at a line's start a heading,
# a quotation or an item of a list. A sign that stands alone, as in "p < 0.001", is left as people type it.
_MARKDOWN = re.compile(
    r"[\\*~`]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|<(?=[A-Za-z/!?])|&(?=#?\w+;)|^(?:#+|>|[-+])(?=\s)|(?<=^\d)[.)](?=\s)"
)


def markdown_text(text: str) -> str:
    """Plain text made safe for Markdown, outside tables: there a | must be escaped too, in code as well."""
    parts = re.split(r"(`[^`]+`)", one_line(text))
    return "".join(p if at % 2 else _MARKDOWN.sub(lambda sign: "\\" + sign[0], p) for at, p in enumerate(parts))


# What LaTeX reserves, and the signs that its fonts have under another name.
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "–": "--", "—": "---",
    "<": r"\textless{}", ">": r"\textgreater{}", "“": "``", "”": "''", "‘": "`", "’": "'",
    "|": r"\textbar{}", "…": r"\dots{}", "‑": "-", "•": r"\textbullet{}", "‖": r"$\|$", "∥": r"$\|$", "°": r"$^\circ$",
    "\xad": "",
}  # fmt: skip
_MATHS = {
    "×": "times", "÷": "div", "·": "cdot", "⋅": "cdot", "≤": "le", "≥": "ge", "≠": "ne", "≈": "approx", "≡": "equiv",
    "∼": "sim", "∝": "propto", "∞": "infty", "∈": "in", "∉": "notin", "∑": "sum", "∏": "prod", "∫": "int",
    "∂": "partial", "∇": "nabla", "√": "surd", "∘": "circ", "⊕": "oplus", "⊙": "odot", "∧": "wedge", "∨": "vee",
    "¬": "neg", "∀": "forall", "∃": "exists", "∩": "cap", "∪": "cup", "⊂": "subset", "⊆": "subseteq", "→": "to",
    "←": "leftarrow", "↔": "leftrightarrow", "⇒": "Rightarrow", "↑": "uparrow", "↓": "downarrow", "↦": "mapsto",
    "′": "prime", "ℓ": "ell", "µ": "mu",
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ϵ": "epsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta", "ϑ": "vartheta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi",
    "π": "pi", "ρ": "rho", "σ": "sigma", "ς": "varsigma", "τ": "tau", "υ": "upsilon", "φ": "varphi", "ϕ": "phi",
    "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi",
    "Π": "Pi", "Σ": "Sigma", "Υ": "Upsilon", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_LATEX |= {sign: rf"$\{name}$" for sign, name in _MATHS.items()}
_LATEX |= dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧο", "ABEZHIKMNOPTXo", strict=True))  # Greek letters that look like Latin ones


def _latex_sign(sign: str) -> str:
    if sign in _LATEX:
        return _LATEX[sign]
    if ord(sign) < 0x180:
        return sign
    plain = unicodedata.normalize("NFKC", sign)  # ₁ is 1, ﬁ is fi
    return "".join(map(_latex_sign, plain)) if plain != sign else f"[U+{ord(sign):04X}]"


def latex_text(text: str) -> str:
    """Plain text made safe for LaTeX; of a sign that pdflatex could not set, its number: [U+65E5]."""
    parts = re.split(r"`([^`]+)`", unicodedata.normalize("NFC", one_line(text)))
    parts = ["".join(map(_latex_sign, part)) for part in parts]
    parts[1::2] = [rf"\texttt{{{code.replace('--', '-{}-')}}}" for code in parts[1::2]]
    return "".join(parts)


def latex_label(name: str) -> str:
    r"""A name that \label and \ref take: letters, digits and -._ as they are, anything else by its number."""
    return re.sub(r"[^A-Za-z0-9._-]", lambda sign: f"x{ord(sign[0]):x}", name)


def html_text(text: str) -> Markup:
    """Plain text made safe for HTML."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
