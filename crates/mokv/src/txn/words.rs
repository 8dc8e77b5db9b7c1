//! The words of a line: bare ones, which end at a space, and quoted ones, with every byte that there is.

use std::iter::Peekable;
use std::str::Chars;

/// What is left of a line.
pub(super) struct Words<'a> {
    rest: Peekable<Chars<'a>>,
}

impl<'a> Words<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Self { rest: line.chars().peekable() }
    }

    /// The next word; `None` at the end of the line. A bare word ends at a space or at one of `ends`, which is left.
    pub(super) fn next(&mut self, ends: &[char]) -> Result<Option<Vec<u8>>, String> {
        self.skip_spaces();
        if self.rest.peek().is_none_or(|c| ends.contains(c)) {
            return Ok(None);
        }
        let mut word = Vec::new();
        // As in a shell, what stands side by side is one word.
        while let Some(c) = self.rest.next_if(|c| !c.is_whitespace() && !ends.contains(c)) {
            match c {
                '"' => self.quoted(&mut word)?,
                '\'' => self.verbatim(&mut word)?,
                c => push(&mut word, c),
            }
        }
        Ok(Some(word))
    }

    /// Takes a character, if it is the next but for spaces.
    pub(super) fn take(&mut self, wanted: char) -> bool {
        self.skip_spaces();
        self.rest.next_if_eq(&wanted).is_some()
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.skip_spaces();
        self.rest.peek().is_none()
    }

    fn skip_spaces(&mut self) {
        while self.rest.next_if(|c| c.is_whitespace()).is_some() {}
    }

    fn verbatim(&mut self, word: &mut Vec<u8>) -> Result<(), String> {
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(c) => push(word, c),
                None => return Err("a ' is missing at the end".into()),
            }
        }
    }

    fn quoted(&mut self, word: &mut Vec<u8>) -> Result<(), String> {
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('\\') => word_escape(self.rest.next(), &mut self.rest, word)?,
                Some(c) => push(word, c),
                None => return Err("a \" is missing at the end".into()),
            }
        }
    }
}

fn word_escape(escape: Option<char>, rest: &mut Peekable<Chars<'_>>, word: &mut Vec<u8>) -> Result<(), String> {
    let byte = match escape {
        Some('n') => b'\n',
        Some('t') => b'\t',
        Some('r') => b'\r',
        Some('0') => 0,
        Some('\\') => b'\\',
        Some('"') => b'"',
        Some('x') => {
            let mut digit = || rest.next().and_then(|c| c.to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
            let byte = digit().and_then(|high| Some(high << 4 | digit()?));
            byte.ok_or("after \\x come two digits of base 16")?
        }
        _ => return Err("after \\ comes one of n t r 0 \\ \" x".into()),
    };
    word.push(byte);
    Ok(())
}

fn push(word: &mut Vec<u8>, c: char) {
    word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Result<Vec<Vec<u8>>, String> {
        let mut words = Words::new(line);
        let mut all = Vec::new();
        while let Some(word) = words.next(&[])? {
            all.push(word);
        }
        Ok(all)
    }

    #[test]
    fn words_are_bare_or_quoted() {
        let table: &[(&str, &[&[u8]])] = &[
            ("", &[]),
            ("  a\tbc ", &[b"a", b"bc"]),
            (r#""a b" 'c"d\n' """#, &[b"a b", br#"c"d\n"#, b""]),
            (r#""\x00\xff\n\\\"\0""#, &[&[0, 0xff, b'\n', b'\\', b'"', 0]]),
            (r#"a"b"'c'"#, &[b"abc"]),
            ("grüße", &["grüße".as_bytes()]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line).expect("words"), *expected, "{line}");
        }
        for line in ["\"a", "'a", r#""\q""#, r#""\x1""#, r#""\x+1""#, "\"\\"] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_can_be_said(bytes: Vec<u8>) {
            let quoted: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            prop_assert_eq!(words(&format!("\"{quoted}\" x")).expect("words"), [bytes, b"x".to_vec()]);
        }

        #[test]
        fn no_line_is_too_strange(line: String) {
            drop(words(&line));
        }
    }
}
