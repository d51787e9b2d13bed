//! Symbolic sizes: polynomials over named sizes, in a canonical form so that equal sizes compare equal.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A size, or a number computed from sizes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// Known.
    Const(i64),
    /// A polynomial that is not constant.
    Expr(Arc<Poly>),
}

/// A sum of products, sorted; no zero factor, never empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Poly(Vec<(Vec<Atom>, i64)>);

/// What polynomials are made of.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Atom {
    Symbol(Arc<str>),
    FloorDiv(Dim, Dim),
    Max(Dim, Dim),
    Min(Dim, Dim),
    Broadcast(Dim, Dim),
}

/// The sizes that symbols stand for in one run.
pub type Bindings = BTreeMap<Arc<str>, i64>;

impl Dim {
    /// A named size.
    pub fn symbol(name: &str) -> Self {
        Self::atom(Atom::Symbol(name.into()))
    }

    fn atom(atom: Atom) -> Self {
        Dim::Expr(Arc::new(Poly(vec![(vec![atom], 1)])))
    }

    /// The number, if it is known.
    pub fn as_const(&self) -> Option<i64> {
        match self {
            Dim::Const(n) => Some(*n),
            Dim::Expr(_) => None,
        }
    }

    /// The name, if this is one symbol and nothing else.
    pub fn as_symbol(&self) -> Option<&Arc<str>> {
        match self {
            Dim::Expr(p) => match p.0.as_slice() {
                [(atoms, 1)] => match atoms.as_slice() {
                    [Atom::Symbol(name)] => Some(name),
                    _ => None,
                },
                _ => None,
            },
            Dim::Const(_) => None,
        }
    }

    fn terms(&self) -> Vec<(Vec<Atom>, i64)> {
        match self {
            Dim::Const(0) => Vec::new(),
            Dim::Const(n) => vec![(Vec::new(), *n)],
            Dim::Expr(p) => p.0.clone(),
        }
    }

    fn from_terms(terms: impl IntoIterator<Item = (Vec<Atom>, i64)>) -> Self {
        let mut sum: BTreeMap<Vec<Atom>, i64> = BTreeMap::new();
        for (atoms, factor) in terms {
            let slot = sum.entry(atoms).or_insert(0);
            *slot = slot.wrapping_add(factor);
        }
        let terms: Vec<_> = sum.into_iter().filter(|(_, f)| *f != 0).collect();
        match terms.as_slice() {
            [] => Dim::Const(0),
            [(atoms, n)] if atoms.is_empty() => Dim::Const(*n),
            _ => Dim::Expr(Arc::new(Poly(terms))),
        }
    }

    /// `self + other`
    pub fn add(&self, other: &Dim) -> Dim {
        if let (Dim::Const(a), Dim::Const(b)) = (self, other) {
            return Dim::Const(a.wrapping_add(*b));
        }
        Self::from_terms(self.terms().into_iter().chain(other.terms()))
    }

    /// `self - other`
    pub fn sub(&self, other: &Dim) -> Dim {
        self.add(&other.mul(&Dim::Const(-1)))
    }

    /// `self * other`
    pub fn mul(&self, other: &Dim) -> Dim {
        if let (Dim::Const(a), Dim::Const(b)) = (self, other) {
            return Dim::Const(a.wrapping_mul(*b));
        }
        let right = other.terms();
        Self::from_terms(self.terms().into_iter().flat_map(|(a, x)| {
            right.clone().into_iter().map(move |(b, y)| {
                let mut atoms: Vec<Atom> = a.iter().chain(&b).cloned().collect();
                atoms.sort();
                (atoms, x.wrapping_mul(y))
            })
        }))
    }

    /// `self / other` if the polynomial division by a single product leaves nothing over.
    pub fn exact_div(&self, other: &Dim) -> Option<Dim> {
        if self == other {
            return Some(Dim::Const(1));
        }
        let divisor = other.terms();
        let [(by, n)] = divisor.as_slice() else { return None };
        let mut out = Vec::new();
        for (mut atoms, factor) in self.terms() {
            for atom in by {
                let at = atoms.iter().position(|a| a == atom)?;
                atoms.remove(at);
            }
            if factor % n != 0 {
                return None;
            }
            out.push((atoms, factor / n));
        }
        Some(Self::from_terms(out))
    }

    /// The quotient rounded down.
    pub fn floor_div(&self, other: &Dim) -> Dim {
        match (self, other) {
            (Dim::Const(a), Dim::Const(b)) if *b != 0 => Dim::Const(a.div_euclid(*b)),
            _ => self.exact_div(other).unwrap_or_else(|| Self::atom(Atom::FloorDiv(self.clone(), other.clone()))),
        }
    }

    /// The larger.
    pub fn at_least(&self, other: &Dim) -> Dim {
        match (self, other) {
            (Dim::Const(a), Dim::Const(b)) => Dim::Const(*a.max(b)),
            _ if self == other => self.clone(),
            // Sizes are not negative, so neither is a polynomial with positive factors only.
            (Dim::Const(0), x) | (x, Dim::Const(0)) if x.terms().iter().all(|(_, f)| *f > 0) => x.clone(),
            _ => Self::atom(Atom::Max(self.clone(), other.clone())),
        }
    }

    /// The smaller.
    pub fn at_most(&self, other: &Dim) -> Dim {
        match (self, other) {
            (Dim::Const(a), Dim::Const(b)) => Dim::Const(*a.min(b)),
            _ if self == other => self.clone(),
            // A limit that means "to the end".
            (Dim::Const(big), x) | (x, Dim::Const(big)) if *big >= i32::MAX as i64 => x.clone(),
            _ => Self::atom(Atom::Min(self.clone(), other.clone())),
        }
    }

    /// The size that two operands have together under NumPy broadcasting, or `None` if they cannot.
    pub fn broadcast(&self, other: &Dim) -> Option<Dim> {
        match (self, other) {
            _ if self == other => Some(self.clone()),
            (Dim::Const(1), x) | (x, Dim::Const(1)) => Some(x.clone()),
            (Dim::Const(_), Dim::Const(_)) => None,
            // A symbol must be 1 or this.
            (Dim::Const(n), _) | (_, Dim::Const(n)) => Some(Dim::Const(*n)),
            _ => {
                // All sizes that take part, once and in order: results that meet again would nest without end.
                let mut parts = Vec::new();
                self.broadcast_parts(&mut parts);
                other.broadcast_parts(&mut parts);
                parts.sort();
                parts.dedup();
                let all = parts.into_iter().cloned();
                all.reduce(|acc, part| Self::atom(Atom::Broadcast(acc, part)))
            }
        }
    }

    /// The sizes that this one was broadcast from, or itself.
    fn broadcast_parts<'a>(&'a self, parts: &mut Vec<&'a Dim>) {
        match self {
            Dim::Expr(p) => match p.0.as_slice() {
                [(atoms, 1)] => match atoms.as_slice() {
                    [Atom::Broadcast(a, b)] => {
                        a.broadcast_parts(parts);
                        b.broadcast_parts(parts);
                    }
                    _ => parts.push(self),
                },
                _ => parts.push(self),
            },
            Dim::Const(_) => parts.push(self),
        }
    }

    /// The number under `bindings`, or `None` if a symbol is unbound or the sizes do not fit each other.
    pub fn eval(&self, bindings: &Bindings) -> Option<i64> {
        match self {
            Dim::Const(n) => Some(*n),
            Dim::Expr(p) => {
                let mut sum = 0i64;
                for (atoms, factor) in &p.0 {
                    let mut product = *factor;
                    for atom in atoms {
                        product = product.checked_mul(atom.eval(bindings)?)?;
                    }
                    sum = sum.checked_add(product)?;
                }
                Some(sum)
            }
        }
    }
}

impl Atom {
    fn eval(&self, bindings: &Bindings) -> Option<i64> {
        let pair = |a: &Dim, b: &Dim| Some((a.eval(bindings)?, b.eval(bindings)?));
        match self {
            Atom::Symbol(name) => bindings.get(name).copied(),
            Atom::FloorDiv(a, b) => pair(a, b).filter(|p| p.1 != 0).map(|(a, b)| a.div_euclid(b)),
            Atom::Max(a, b) => pair(a, b).map(|(a, b)| a.max(b)),
            Atom::Min(a, b) => pair(a, b).map(|(a, b)| a.min(b)),
            Atom::Broadcast(a, b) => match pair(a, b)? {
                (a, b) if a == b => Some(a),
                (1, x) | (x, 1) => Some(x),
                _ => None,
            },
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Dim::Const(n as i64)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = match self {
            Dim::Const(n) => return write!(f, "{n}"),
            Dim::Expr(p) => &p.0,
        };
        // The constant comes first in the canonical order; people expect it last.
        let constant_first = terms.first().is_some_and(|t| t.0.is_empty()) as usize;
        let ordered = terms[constant_first..].iter().chain(&terms[..constant_first]);
        for (i, (atoms, factor)) in ordered.enumerate() {
            match (i, *factor < 0) {
                (0, false) => {}
                (0, true) => write!(f, "-")?,
                (_, false) => write!(f, " + ")?,
                (_, true) => write!(f, " - ")?,
            }
            let factor = factor.unsigned_abs();
            if atoms.is_empty() || factor != 1 {
                write!(f, "{factor}")?;
                if !atoms.is_empty() {
                    write!(f, "*")?;
                }
            }
            for (j, atom) in atoms.iter().enumerate() {
                if j > 0 {
                    write!(f, "*")?;
                }
                match atom {
                    Atom::Symbol(name) => write!(f, "{name}")?,
                    Atom::FloorDiv(a, b) => write!(f, "({a})/({b})")?,
                    Atom::Max(a, b) => write!(f, "max({a}, {b})")?,
                    Atom::Min(a, b) => write!(f, "min({a}, {b})")?,
                    Atom::Broadcast(a, b) => write!(f, "broadcast({a}, {b})")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sizes_have_one_form() {
        let (b, s) = (Dim::symbol("batch"), Dim::symbol("sequence"));
        let a = b.mul(&s).add(&s.mul(&Dim::Const(2)));
        let c = s.mul(&b.add(&Dim::Const(2)));
        assert_eq!(a, c);
        assert_eq!(a.sub(&c), Dim::Const(0));
        assert_eq!(a.exact_div(&s), Some(b.add(&Dim::Const(2))));
        assert_eq!(a.exact_div(&b), None);
        assert_eq!(a.to_string(), "batch*sequence + 2*sequence");
    }

    #[test]
    fn evaluation_binds_symbols_and_checks_broadcasts() {
        let (b, s) = (Dim::symbol("b"), Dim::symbol("s"));
        let both = b.broadcast(&s).unwrap();
        let bind = |x, y| Bindings::from([("b".into(), x), ("s".into(), y)]);
        assert_eq!(both.eval(&bind(1, 5)), Some(5));
        assert_eq!(both.eval(&bind(2, 5)), None);
        assert_eq!(both.eval(&Bindings::new()), None);
        assert_eq!(s.broadcast(&Dim::Const(1)), Some(s.clone()));
        // However often the same sizes meet.
        assert_eq!(both.broadcast(&s), Some(both.clone()));
        assert_eq!(b.broadcast(&both), Some(both.clone()));
        assert_eq!(both.broadcast(&both), Some(both.clone()));
        assert_eq!(Dim::Const(2).broadcast(&Dim::Const(3)), None);
        assert_eq!(s.add(&Dim::Const(7)).floor_div(&Dim::Const(4)).eval(&bind(1, 6)), Some(3));
        assert_eq!(s.at_least(&Dim::Const(0)), s);
        assert_eq!(s.at_most(&Dim::Const(i64::MAX)), s);
    }
}
