//! Small text files with a checksum as their last line.
//!
//! A person can read them; a program accepts them only if every byte is as it was written. One
//! form: a title with a format number, lines of `name value`, and `checksum` with the CRC32C of
//! all before it. The title's form and the checksum line stay in every later format, so that an
//! old release can tell a newer file from a damaged one.

/// More than any of these files ever has.
pub(super) const BYTES_MAX: u64 = 4096;

/// What is in a sealed file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sealed<'t> {
    pub(super) format: u32,
    lines: Vec<(&'t str, &'t str)>,
}

impl<'t> Sealed<'t> {
    /// The value of the line `name`.
    pub(super) fn get(&self, name: &str) -> Option<&'t str> {
        self.lines.iter().find(|(line, _)| *line == name).map(|(_, value)| *value)
    }

    /// A number written in 16 hexadecimal digits.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let text = self.get(name)?;
        let number = u64::from_str_radix(text, 16).ok()?;
        (format!("{number:016x}") == text).then_some(number)
    }
}

/// The bytes of a file titled `title`. Values are single lines.
pub(super) fn seal(title: &str, format: u32, lines: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("kontiki {title} {format}\n");
    for (name, value) in lines {
        assert!(is_line(value), "the value of {name} is no single line: {value:?}");
        text.push_str(name);
        text.push(' ');
        text.push_str(value);
        text.push('\n');
    }
    text.push_str(&checksum_line(&text));
    assert!(text.len() as u64 <= BYTES_MAX, "{title} of {} bytes", text.len());
    text.into_bytes()
}

/// Reads what [`seal`] wrote, or says what is wrong with it.
pub(super) fn unseal<'t>(title: &str, bytes: &'t [u8]) -> Result<Sealed<'t>, String> {
    let damaged = || "is damaged".to_owned();
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let end = text.rfind("checksum ").ok_or_else(damaged)?;
    let (body, checksum) = text.split_at(end);
    if checksum != checksum_line(body) || !body.ends_with('\n') {
        return Err(damaged());
    }
    let mut lines = body.lines();
    let format = lines
        .next()
        .and_then(|line| line.strip_prefix("kontiki "))
        .and_then(|line| line.strip_prefix(title))
        .and_then(|line| line.strip_prefix(' '))
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("is no {title} of Kontiki"))?;
    let lines =
        lines.map(|line| line.split_once(' ').ok_or_else(damaged)).collect::<Result<_, _>>()?;
    Ok(Sealed { format, lines })
}

/// Whether the text can stand as a value: one line that a person can read, of bounded length.
pub(super) fn is_line(text: &str) -> bool {
    text.len() <= 1024 && !text.chars().any(char::is_control)
}

/// The text as one readable line of bounded length.
pub(super) fn to_line(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1024).collect();
    while line.len() > 1024 {
        line.pop();
    }
    line
}

fn checksum_line(body: &str) -> String {
    format!("checksum {:08x}\n", crc32c::crc32c(body.as_bytes()))
}
