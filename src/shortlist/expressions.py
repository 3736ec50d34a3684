"""A small typed grammar over columns: `value >= 4 and category in ["drama", "war"]`.

Parsed by Python's own parser into a whitelisted tree and evaluated on arrays; nothing is ever executed.
Names are columns (dots allowed); numbers, text, true/false, lists; + - * / **, comparisons, in, and, or, not; `exp(x)`,
`log(x)`, `log1p(x)`, `coalesce(x, y)` (y where x is missing) and, over what requests have side by side, `rank(x)`.
"""

import ast
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist.errors import ConfigError

__all__ = ["Expression", "MAX_LENGTH"]

MAX_LENGTH = 1000
_MAX_DEPTH = 40
_MAX_NUMBER = 2**63 - 1

_COMPARE = {
    ast.Eq: np.equal, ast.NotEq: np.not_equal,
    ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal,
}  # fmt: skip
_MIRROR = {
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide,
    ast.Pow: lambda base, power: np.power(base, np.asarray(power, dtype=np.float64)),  # whole numbers would wrap round
}  # fmt: skip
_FUNCTIONS = {"exp": np.exp, "log": np.log, "log1p": np.log1p}  # of one number
_ARITY = {**dict.fromkeys(_FUNCTIONS, 1), "rank": 1, "coalesce": 2}
_WORDS = {"true": True, "false": False}
_GRAMMAR = "use columns, values, + - * / **, <, in, and, or, not, exp, log, log1p, coalesce, in fuse rank"
_NUMERIC = "biuf"
_NONE = np.array(None, dtype=object)


@dataclass(frozen=True)
class Expression:
    """A parsed expression. `names` are the columns it reads; `where` is the place it was written at, "" for none."""

    text: str
    tree: ast.expr
    names: frozenset[str]
    where: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str, where: str = "", *, ranks: bool = False) -> "Expression":
        """`ranks`: its rows are candidates of requests, which `rank` compares. Raises ConfigError with the offending
        part when the text is not in the grammar."""
        written, where = where, where or "expression"
        if len(text) > MAX_LENGTH:
            raise ConfigError(f"longer than {MAX_LENGTH} characters", where=where, hint="shorten it")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            names = frozenset(_check(tree, text, where, 0))
            ranked = next((part for part in ast.walk(tree) if _called(part) == "rank"), None)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            hint = "write e.g. value >= 4 and category in ['a', 'b']"
            raise ConfigError(f"cannot read {text!r}", where=where, hint=hint) from None
        if ranked is not None and not ranks:
            part = ast.get_source_segment(text.strip(), ranked)
            hint = "only fuse has candidates to rank"
            raise ConfigError(f"{part!r} is not allowed here", where=where, hint=hint)
        return cls(text, tree, names, written)

    def __call__(
        self,
        columns: Mapping[str, NDArray[Any]],
        length: int | None = None,
        offsets: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Evaluate on columns of equal length [N]; `length` is needed only where there is no column at all.

        A missing value (None, NaN) fits nothing: `==`, `<`, `in` are false, `!=`, `not in` true, and
        arithmetic with it is NaN. A list column (object array of lists) fits where any of its values does.
        `rank` compares the rows `offsets[r]:offsets[r+1]` of each request, all rows without: 1 is the largest value,
        equal ones share the mean of their places. Raises ConfigError for an unknown column or for types that do not
        compare.
        """
        self.check(columns)
        if length is None:
            length = next((len(column) for column in columns.values()), 0)
        if offsets is None:
            offsets = np.array([0, length], dtype=np.int64)
        try:
            with np.errstate(all="ignore"):
                value = _value(self.tree, columns, offsets)
        except (TypeError, np.exceptions.DTypePromotionError):
            hint = "compare text with text, numbers with numbers"
            raise ConfigError("these types do not compare", where=self.where or self.text, hint=hint) from None
        return np.broadcast_to(np.asarray(value), (length,)) if np.ndim(value) == 0 else np.asarray(value)

    def check(self, columns: Collection[str]) -> None:
        """Raises ConfigError when it reads a column that is not among these."""
        for name in sorted(self.names):
            if name not in columns:
                from shortlist.config import nearest

                hint = nearest(name, list(columns))
                raise ConfigError(f"unknown column {name!r}", where=self.where or self.text, hint=hint)

    def mask(self, columns: Mapping[str, NDArray[Any]], length: int | None = None) -> NDArray[np.bool_]:
        """Where it holds [N]. Raises ConfigError for an expression that is no condition, such as a field's name."""
        value = self(columns, length)
        if value.dtype != bool:
            what = f"{self.text!r} is a value, not a condition"
            raise ConfigError(what, where=self.where or self.text, hint="write a condition, e.g. price < 30")
        return value


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := _name(node.value)) is not None:
        return f"{head}.{node.attr}"
    return None


def _called(node: ast.AST) -> str | None:
    """The function that is called here with as many plain arguments as it takes."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        plain = not any(isinstance(argument, ast.Starred) for argument in node.args)
        return node.func.id if plain and _ARITY.get(node.func.id) == len(node.args) else None
    return None


def _check(node: ast.expr, text: str, where: str, depth: int) -> list[str]:
    """Names of the columns below a node. Raises ConfigError for anything outside the grammar."""
    if depth > _MAX_DEPTH:
        raise ConfigError(f"nested too deep: {text!r}", where=where, hint="simplify it")
    name = _name(node)
    if name is not None:
        return [] if name in _WORDS else [name]
    parts: list[ast.expr]
    match node:
        case ast.Constant(value=bool() | float() | str()):
            return []
        case ast.Constant(value=int() as number) if abs(number) <= _MAX_NUMBER:
            return []
        case ast.BoolOp(values=parts):
            pass
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            parts = [operand]
        case ast.BinOp(left=left, right=right, op=sign) if type(sign) in _ARITHMETIC:
            parts = [left, right]
        case ast.Call(args=parts) if _called(node) is not None:
            pass
        case ast.Compare(left=left, ops=ops, comparators=rest):
            parts = [left]
            for op, right in zip(ops, rest, strict=True):
                if isinstance(op, (ast.In, ast.NotIn)) and len(ops) == 1:
                    parts += _members(right, text, where)
                elif type(op) in _COMPARE:
                    parts.append(right)
                else:
                    raise _refuse(node, text, where)
        case _:
            raise _refuse(node, text, where)
    return [name for part in parts for name in _check(part, text, where, depth + 1)]


def _members(node: ast.expr, text: str, where: str) -> list[ast.expr]:
    """Values of the list behind `in`: plain constants, a minus sign allowed."""
    if not isinstance(node, (ast.List, ast.Tuple)):
        raise _refuse(node, text, where)
    for part in node.elts:
        inner = part.operand if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub) else part
        if not isinstance(inner, ast.Constant):
            raise _refuse(part, text, where)
    return node.elts


def _refuse(node: ast.expr, text: str, where: str) -> ConfigError:
    part = ast.get_source_segment(text.strip(), node) or text
    return ConfigError(f"{part!r} is not allowed here", where=where, hint=_GRAMMAR)


def _value(node: ast.expr, columns: Mapping[str, NDArray[Any]], offsets: NDArray[np.int64]) -> Any:
    """A constant, or an array [N]. Raises TypeError where types do not fit."""
    name = _name(node)
    if name is not None:
        return _WORDS[name] if name in _WORDS else columns[name]
    match node:
        case ast.Constant(value=value):
            return value
        case ast.BoolOp(op=both, values=parts):
            combine = np.logical_and if isinstance(both, ast.And) else np.logical_or
            truth = _truth(_value(parts[0], columns, offsets))
            for part in parts[1:]:
                truth = combine(truth, _truth(_value(part, columns, offsets)))
            return truth
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return np.logical_not(_truth(_value(operand, columns, offsets)))
        case ast.UnaryOp(operand=operand):
            return np.negative(_number(_value(operand, columns, offsets)))
        case ast.BinOp(left=left, op=op, right=right):
            low, high = (_number(_value(part, columns, offsets)) for part in (left, right))
            return _ARITHMETIC[type(op)](low, high)
        case ast.Call(func=ast.Name(id=name), args=parts):
            given = [_number(_value(part, columns, offsets)).astype(np.float64) for part in parts]
            if name == "rank":
                return _rank(np.broadcast_to(given[0], (int(offsets[-1]),)), offsets)
            if name == "coalesce":
                return np.where(np.isnan(given[0]), given[1], given[0])
            return _FUNCTIONS[name](given[0])
        case ast.Compare(
            left=left, ops=[ast.In() | ast.NotIn() as within], comparators=[ast.List() | ast.Tuple() as among]
        ):
            low = _value(left, columns, offsets)
            hit: Any = np.zeros(np.shape(low), dtype=bool)
            for part in among.elts:
                hit = hit | _compare(ast.Eq, low, _value(part, columns, offsets))
            return hit if isinstance(within, ast.In) else ~hit
        case ast.Compare(left=left, ops=ops, comparators=rest):
            holds: Any = True
            low = _value(left, columns, offsets)
            for step, right in zip(ops, rest, strict=True):
                high = _value(right, columns, offsets)
                holds = np.logical_and(holds, _compare(type(step), low, high))
                low = high
            return holds
    raise AssertionError(f"unchecked node {node!r}")


def _rank(x: NDArray[np.float64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Places [N] by falling value within each request, from 1; equal values share the mean of theirs, NaN has none."""
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((-x, owners))  # NaN comes last
    value, owner = x[order], owners[order]
    starts = np.flatnonzero(np.r_[True, (value[1:] != value[:-1]) | (owner[1:] != owner[:-1])]) if len(x) else order
    sizes = np.diff(starts, append=len(x))
    places = np.empty(len(x))
    places[order] = np.repeat(starts - offsets[:-1][owner[starts]] + (sizes + 1) / 2, sizes)
    return np.where(np.isnan(x), np.nan, places)


def _number(value: Any) -> Any:
    """For arithmetic: objects become floats, None NaN, true 1. Raises TypeError for text and lists."""
    array = np.asarray(value)
    if array.dtype == object:
        if not all(v is None or isinstance(v, (bool, int, float, np.number, np.bool_)) for v in array.flat):
            raise TypeError("not a number")
        return array.astype(np.float64)
    if array.dtype.kind not in _NUMERIC:
        raise TypeError("not a number")
    return array.astype(np.int64) if array.dtype == bool else array


def _truth(value: Any) -> NDArray[np.bool_]:
    """For and, or, not: zero, None and NaN are false. Raises TypeError for text and lists."""
    number = _number(value)
    return np.asarray((number != 0) & ~np.isnan(number), dtype=bool)


def _compare(op: type[ast.cmpop], low: Any, high: Any) -> NDArray[np.bool_]:
    if _is_list(high):
        if _is_list(low):
            raise TypeError("two list columns")
        low, high, op = high, low, _MIRROR[op]
    if _is_list(low):  # true where any of its values fits; != where none equals
        lengths = np.fromiter((0 if v is None else len(v) for v in low), dtype=np.int64, count=len(low))
        flat = np.fromiter((x for v in low if v is not None for x in v), dtype=object, count=int(lengths.sum()))
        owner = np.repeat(np.arange(len(low)), lengths)
        other = high if np.ndim(high) == 0 else np.asarray(high)[owner]
        hit = np.zeros(len(low), dtype=bool)
        hit[owner[_compare(ast.Eq if op is ast.NotEq else op, flat, other)]] = True
        return ~hit if op is ast.NotEq else hit
    apply = _COMPARE[op]
    left, right = np.asarray(low), np.asarray(high)
    if left.dtype != object and right.dtype != object:
        if (left.dtype.kind in _NUMERIC) != (right.dtype.kind in _NUMERIC):
            raise TypeError("text and number")
        return np.asarray(apply(left, right), dtype=bool)
    left, right = np.broadcast_arrays(left, right)
    known = np.asarray((left != _NONE) & (right != _NONE), dtype=bool)
    result = np.full(left.shape, op is ast.NotEq)
    result[known] = _same(left[known], right[known], apply)
    return result


def _same(left: NDArray[Any], right: NDArray[Any], apply: Any) -> NDArray[Any]:
    """Compare two columns without missing values; both must be text, or both numbers."""
    if len(left) and isinstance(left[0], str) != isinstance(right[0], str):
        raise TypeError("text and number")
    return np.asarray(apply(left, right), dtype=bool)


def _is_list(value: Any) -> bool:
    if not isinstance(value, np.ndarray) or value.dtype != object:
        return False
    return isinstance(next((v for v in value if v is not None), None), (list, tuple, np.ndarray))
