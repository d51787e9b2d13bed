//! Element types.

use half::f16;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision. Storage only: arithmetic widens it to [`DType::F32`].
    F16,
    /// Signed 64 bits: token ids, shapes, indices.
    I64,
    /// Signed 32 bits: integer accumulators.
    I32,
    /// Unsigned 8 bits.
    U8,
    /// Signed 8 bits.
    I8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Bytes one element takes on the host.
    pub const fn size(self) -> usize {
        match self {
            DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 => 2,
            DType::U8 | DType::I8 | DType::Bool => 1,
        }
    }

    /// Whether the type is a floating-point one.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16)
    }

    /// Whether the type is one of the two 8-bit integers.
    pub const fn is_int8(self) -> bool {
        matches!(self, DType::U8 | DType::I8)
    }

    /// The name that messages use.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::U8 => "u8",
            DType::I8 => "i8",
            DType::Bool => "bool",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that stores the elements of a tensor.
///
/// [`DType::Bool`] is stored as [`Bool`], one byte that is 0 or 1.
pub trait Element: bytemuck::Pod + PartialOrd + Send + Sync + std::fmt::Debug + 'static {
    /// The type's tag.
    const DTYPE: DType;
}

/// One byte, 0 (false) or 1 (true).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Bool(pub u8);

impl From<bool> for Bool {
    fn from(value: bool) -> Self {
        Bool(value as u8)
    }
}

impl From<Bool> for bool {
    fn from(value: Bool) -> Self {
        value.0 != 0
    }
}

macro_rules! element {
    ($($rust:ty => $tag:ident),*) => { $(impl Element for $rust { const DTYPE: DType = DType::$tag; })* };
}
element!(f32 => F32, f16 => F16, i64 => I64, i32 => I32, u8 => U8, i8 => I8, Bool => Bool);
