//! Text from token ids, piece by piece.
//!
//! What a token's text is depends on its neighbours: a character may be spread over several tokens, and whether a word
//! begins with a space is told by what stands before it. So the tokenizer decodes a short window: the tokens of the last
//! piece, whose text is out already, and those behind them. The difference is the next piece, held back while it ends
//! in the middle of a character.

use std::borrow::Borrow;

use tokenizers::Tokenizer;

/// The tokenizer failed on ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tokens cannot be turned into text: {0}")]
pub struct DetokenizeError(String);

impl DetokenizeError {
    /// A stable name of the kind of error, for programs.
    pub fn kind(&self) -> &'static str {
        "tokenizer_decode"
    }
}

/// What decoders write for bytes that are no character, or not yet one.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// The longest a character can be without being whole, in tokens of a byte each.
const UNFINISHED: usize = 3;

/// Tokens held back at most. Only tokens that all begin and end in the middle of a character come so far.
const HELD: usize = 32;

/// Turns a stream of token ids into a stream of text.
///
/// All pieces together are what the tokenizer decodes from all the ids together, special tokens left out, with one
/// exception: where byte tokens (`<0xE2>`) stop being UTF-8, a tokenizer takes back the characters before them, back to
/// the last token that was none of these; what is out already stays here.
///
/// To go on with a text, push its tokens first and drop what they give: then the first new word has its space.
///
/// `T` is the tokenizer, a reference to it, or an `Rc` or `Arc` of it.
#[derive(Debug, Clone)]
pub struct Detokenizer<T> {
    tokenizer: T,
    /// The tokens of the last piece, then those held back.
    ids: Vec<u32>,
    /// How many of them are of the last piece.
    given: usize,
}

impl<T: Borrow<Tokenizer>> Detokenizer<T> {
    /// At the beginning of a text.
    pub fn new(tokenizer: T) -> Self {
        Detokenizer { tokenizer, ids: Vec::new(), given: 0 }
    }

    /// Takes the next token and returns the text that is certain now; often none, never half a character.
    ///
    /// # Errors
    /// [`DetokenizeError`] if the tokenizer's decoder fails; the token is forgotten.
    pub fn push(&mut self, id: u32) -> Result<String, DetokenizeError> {
        // Such a token shows nothing. It must not take a place in the window either: a stream of them has no end.
        let tokenizer = self.tokenizer.borrow();
        match tokenizer.id_to_token(id) {
            Some(token) if !tokenizer.get_added_vocabulary().is_special_token(&token) => {}
            _ => return Ok(String::new()),
        }
        self.ids.push(id);
        self.advance().inspect_err(|_| {
            self.ids.pop();
        })
    }

    /// Ends the text: what was held back comes out as the tokenizer shows it, and the next token begins a new text.
    ///
    /// # Errors
    /// [`DetokenizeError`] if the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<String, DetokenizeError> {
        let rest = self.rest(self.ids.len());
        self.ids.clear();
        self.given = 0;
        rest
    }

    fn decode(&self, ids: &[u32]) -> Result<String, DetokenizeError> {
        self.tokenizer.borrow().decode(ids, true).map_err(|error| DetokenizeError(error.to_string()))
    }

    /// The text of the tokens held back, up to `end`.
    fn rest(&self, end: usize) -> Result<String, DetokenizeError> {
        let context = self.decode(&self.ids[..self.given])?;
        match self.decode(&self.ids[..end])?.strip_prefix(&context) {
            Some(rest) => Ok(rest.to_owned()),
            // The last piece's bytes would be taken back.
            None => self.decode(&self.ids[self.given..end]),
        }
    }

    /// Makes the tokens up to `end` the last piece.
    fn give(&mut self, end: usize) {
        self.ids.drain(..self.given);
        self.given = end - self.given;
    }

    fn advance(&mut self) -> Result<String, DetokenizeError> {
        let mut out = String::new();
        loop {
            let end = self.ids.len();
            let rest = self.rest(end)?;
            if !rest.is_empty() && (!rest.ends_with(REPLACEMENT) || self.bytes_are_whole()) {
                self.give(end);
                return Ok(out + &rest);
            }
            let held = end - self.given;
            if held <= UNFINISHED {
                return Ok(out);
            }
            // Either bytes that are no text at all, or tokens that end in the middle of a character one after the
            // other. Some of them are certain: those before a place where cutting changes nothing.
            match self.cut()? {
                Some(at) => {
                    out += &self.rest(at)?;
                    self.give(at);
                }
                None if held < HELD => return Ok(out),
                None => {
                    self.give(end);
                    return Ok(out + &rest);
                }
            }
        }
    }

    /// Whether the tokens held back end in byte tokens that are UTF-8: then a replacement character at the end is meant.
    fn bytes_are_whole(&self) -> bool {
        let byte = |&id: &u32| {
            let token = self.tokenizer.borrow().id_to_token(id)?;
            u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
        };
        let mut bytes: Vec<u8> = self.ids[self.given..].iter().rev().map_while(byte).collect();
        bytes.reverse();
        !bytes.is_empty() && std::str::from_utf8(&bytes).is_ok()
    }

    /// The first place among the tokens held back where the text can be cut in two.
    fn cut(&self) -> Result<Option<usize>, DetokenizeError> {
        let whole = self.decode(&self.ids)?;
        for at in self.given + 1..self.ids.len() {
            let (left, right) = (self.decode(&self.ids[..at])?, self.decode(&self.ids[at..])?);
            if !right.is_empty() && whole.strip_prefix(&left) == Some(&right) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
