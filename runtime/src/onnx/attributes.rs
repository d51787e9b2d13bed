//! Typed attribute readers. An attribute that nobody asked for is an error: it would change the meaning silently.

use std::cell::RefCell;

use super::proto::{Attribute, AttributeValue, GraphProto, NodeProto, TensorProto};

/// The attributes of one node, with a note of which were read.
pub(super) struct Attributes<'a> {
    list: &'a [Attribute<'a>],
    read: RefCell<Vec<&'a str>>,
}

impl<'a> Attributes<'a> {
    pub(super) fn new(node: &'a NodeProto<'a>) -> Self {
        Attributes { list: &node.attributes, read: RefCell::default() }
    }

    fn find(&self, name: &str) -> Option<&'a AttributeValue<'a>> {
        let found = self.list.iter().find(|a| a.name == name)?;
        self.read.borrow_mut().push(found.name);
        Some(&found.value)
    }

    fn typed<T>(
        &self,
        name: &str,
        want: &str,
        get: impl FnOnce(&'a AttributeValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.find(name) {
            None => Ok(None),
            Some(value) => get(value).map(Some).ok_or_else(|| format!("attribute {name} is not {want}")),
        }
    }

    pub(super) fn int(&self, name: &str) -> Result<Option<i64>, String> {
        self.typed(name, "an integer", |v| if let AttributeValue::Int(i) = v { Some(*i) } else { None })
    }

    pub(super) fn int_or(&self, name: &str, default: i64) -> Result<i64, String> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, String> {
        Ok(self.int(name)?.map_or(default, |i| i != 0))
    }

    /// An integer that must not be negative.
    pub(super) fn size_or(&self, name: &str, default: usize) -> Result<usize, String> {
        match self.int(name)? {
            None => Ok(default),
            Some(i) => usize::try_from(i).map_err(|_| format!("attribute {name} is {i}")),
        }
    }

    pub(super) fn size(&self, name: &str) -> Result<usize, String> {
        match self.int(name)? {
            Some(i) if i > 0 => Ok(i as usize),
            Some(i) => Err(format!("attribute {name} is {i}")),
            None => Err(format!("attribute {name} is missing")),
        }
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f32>, String> {
        self.typed(name, "a number", |v| if let AttributeValue::Float(f) = v { Some(*f) } else { None })
    }

    pub(super) fn float_or(&self, name: &str, default: f32) -> Result<f32, String> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    pub(super) fn floats(&self, name: &str) -> Result<Option<&'a [f32]>, String> {
        self.typed(
            name,
            "a list of numbers",
            |v| {
                if let AttributeValue::Floats(f) = v { Some(f.as_slice()) } else { None }
            },
        )
    }

    pub(super) fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, String> {
        self.typed(
            name,
            "a list of integers",
            |v| {
                if let AttributeValue::Ints(i) = v { Some(i.as_slice()) } else { None }
            },
        )
    }

    pub(super) fn sizes(&self, name: &str) -> Result<Option<Vec<usize>>, String> {
        match self.ints(name)? {
            None => Ok(None),
            Some(list) => list
                .iter()
                .map(|&i| usize::try_from(i).map_err(|_| format!("attribute {name} is {list:?}")))
                .collect::<Result<_, _>>()
                .map(Some),
        }
    }

    pub(super) fn text_or(&self, name: &str, default: &'static str) -> Result<&'a str, String> {
        self.typed(name, "text", |v| match v {
            AttributeValue::Text(s) => std::str::from_utf8(s).ok(),
            _ => None,
        })
        .map(|t| t.unwrap_or(default))
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto<'a>>, String> {
        self.typed(name, "a tensor", |v| if let AttributeValue::Tensor(t) = v { Some(t) } else { None })
    }

    pub(super) fn graph(&self, name: &str) -> Result<&'a GraphProto<'a>, String> {
        self.typed(name, "a graph", |v| if let AttributeValue::Graph(g) = v { Some(g) } else { None })?
            .ok_or_else(|| format!("attribute {name} is missing"))
    }

    /// Accepts an attribute that does not matter when running.
    pub(super) fn ignore(&self, names: &[&str]) {
        for name in names {
            self.find(name);
        }
    }

    /// Accepts an attribute only with the value that changes nothing.
    pub(super) fn only(&self, name: &str, value: i64) -> Result<(), String> {
        match self.int(name)? {
            Some(i) if i != value => Err(format!("attribute {name} = {i} is not supported")),
            _ => Ok(()),
        }
    }

    /// The first attribute that nobody read.
    pub(super) fn unread(&self) -> Option<&'a str> {
        let read = self.read.borrow();
        self.list.iter().map(|a| a.name).find(|name| !read.contains(name))
    }
}
