//! Links of a page that is shown through the proxy: those that are meant from the root of its server are led
//! through the proxy as well.
//!
//! Keeps: everything but the beginning of such links stays as it was, byte by byte, and so does what is not
//! understood.
//! Never: anything of another server is touched.

use std::ops::Range;

/// Where a page is shown.
pub(super) struct Shown<'a> {
    /// The path of the proxy, without a stroke at its end.
    pub prefix: &'a str,
    /// What the page's server was called by the client, and by us.
    pub hosts: [&'a str; 2],
}

/// Elements whose attributes are links.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements in which there are no others, up to their own end.
const TEXTS: &[&str] = &[
    "iframe",
    "noembed",
    "noframes",
    "noscript",
    "plaintext",
    "script",
    "style",
    "textarea",
    "title",
    "xmp",
];

impl Shown<'_> {
    /// A link as it has to be, to lead through the proxy; `None` where it stays.
    pub(super) fn link(&self, link: &str) -> Option<String> {
        let (host, rest) = host(link)?;
        let is_own = host.is_none_or(|host| self.hosts.contains(&host));
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (path, behind) = rest.split_at(end);
        if !is_own || !path.starts_with('/') {
            return None;
        }
        // How the client calls the server is right already.
        let before =
            if host == Some(self.hosts[0]) { &link[..link.len() - rest.len()] } else { "" };
        if path.starts_with(self.prefix) {
            return host.map(|_| format!("{before}{path}{behind}"));
        }
        let prefix = quotable(self.prefix);
        let stroke = if path.len() > 1 && path.ends_with('/') { "/" } else { "" };
        let path = cleaned(path);
        let root = if path.is_empty() { "/" } else { "" };
        Some(format!("{before}{prefix}{path}{stroke}{root}{behind}"))
    }

    /// A page with its links.
    pub(super) fn page(&self, page: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(page.len() + page.len() / 16);
        let mut copied = 0;
        for value in values(page) {
            let link = std::str::from_utf8(&page[value.clone()]).ok();
            if let Some(link) = link.and_then(|link| self.link(link)) {
                out.extend_from_slice(&page[copied..value.start]);
                out.extend_from_slice(link.as_bytes());
                copied = value.end;
            }
        }
        out.extend_from_slice(&page[copied..]);
        out
    }
}

/// The server that a link names, and what comes behind; `None`: it is no link to a path.
fn host(link: &str) -> Option<(Option<&str>, &str)> {
    let name = link.find(|sign: char| !(sign.is_ascii_alphanumeric() || "+-.".contains(sign)));
    let rest = match name {
        Some(end) if end > 0 && link[end..].starts_with(':') => &link[end + 1..],
        _ => link,
    };
    if link.chars().any(|sign| sign.is_ascii_control()) {
        return None;
    }
    match rest.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            Some((Some(&rest[..end]), &rest[end..]))
        }
        // A scheme without a server (`mailto:`, `data:`) has no path that could be led anywhere.
        None => (rest.len() == link.len()).then_some((None, rest)),
    }
}

/// A path without empty parts, `.` and `..`; nothing for the root.
fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.iter().flat_map(|part| ["/", part]).collect()
}

/// The prefix is what a client asked for, and is put between quotes of a page.
fn quotable(prefix: &str) -> String {
    let escaped = |sign: char| match sign {
        '"' => "%22".to_owned(),
        '\'' => "%27".to_owned(),
        '<' => "%3C".to_owned(),
        '>' => "%3E".to_owned(),
        '&' => "%26".to_owned(),
        '`' => "%60".to_owned(),
        sign => sign.to_string(),
    };
    prefix.chars().map(escaped).collect()
}

/// Where in a page the values of attributes are that are links.
fn values(page: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = position(page, at, |byte| byte == b'<') {
        let next = page.get(open + 1).copied().unwrap_or_default();
        at = match next {
            b'!' if page[open..].starts_with(b"<!--") => behind(page, open + 4, b"-->"),
            b'!' | b'?' | b'/' => behind(page, open, b">"),
            letter if letter.is_ascii_alphabetic() => element(page, open + 1, &mut found),
            _ => open + 1,
        };
    }
    found
}

/// Goes through the tag of an element; where the page goes on.
fn element(page: &[u8], from: usize, found: &mut Vec<Range<usize>>) -> usize {
    let ends_name = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>');
    let end = position(page, from, ends_name).unwrap_or(page.len());
    let tag = page[from..end].to_ascii_lowercase();
    let named = |name: &&str| name.as_bytes() == tag;
    let links = LINKS.iter().find(|(name, _)| named(name)).map_or(&[][..], |(_, links)| links);
    let mut at = end;
    loop {
        let skipped = |byte: u8| !byte.is_ascii_whitespace() && byte != b'/';
        let Some(begin) = position(page, at, skipped) else { return page.len() };
        if page[begin] == b'>' {
            at = begin + 1;
            break;
        }
        // An equals sign at the beginning is part of a name.
        let ends = |byte: u8| ends_name(byte) || byte == b'=';
        let end = position(page, begin + 1, ends).unwrap_or(page.len());
        let name = page[begin..end].to_ascii_lowercase();
        let sign = position(page, end, |byte| !byte.is_ascii_whitespace()).unwrap_or(page.len());
        if page.get(sign) != Some(&b'=') {
            at = end;
            continue;
        }
        let Some(value) = position(page, sign + 1, |byte| !byte.is_ascii_whitespace()) else {
            return page.len();
        };
        let (value, after) = match page[value] {
            quote @ (b'"' | b'\'') => {
                let Some(end) = position(page, value + 1, |byte| byte == quote) else {
                    return page.len();
                };
                (value + 1..end, end + 1)
            }
            _ => {
                let ends = |byte: u8| byte.is_ascii_whitespace() || byte == b'>';
                let end = position(page, value, ends).unwrap_or(page.len());
                (value..end, end)
            }
        };
        if links.iter().any(|link| link.as_bytes() == name) {
            found.push(value);
        }
        at = after;
    }
    if TEXTS.iter().any(named) {
        return end_of_text(page, at, &tag);
    }
    at
}

/// Where the end of an element begins that has text alone.
fn end_of_text(page: &[u8], from: usize, tag: &[u8]) -> usize {
    let mut at = from;
    while let Some(open) = position(page, at, |byte| byte == b'<') {
        let end = page[open + 1..].strip_prefix(b"/").and_then(|rest| rest.get(..tag.len()));
        if end.is_some_and(|end| end.eq_ignore_ascii_case(tag)) {
            return open;
        }
        at = open + 1;
    }
    page.len()
}

fn position(page: &[u8], from: usize, is: impl Fn(u8) -> bool) -> Option<usize> {
    page.get(from..)?.iter().position(|byte| is(*byte)).map(|at| from + at)
}

fn behind(page: &[u8], from: usize, mark: &[u8]) -> usize {
    let rest = page.get(from..).unwrap_or_default();
    let at = rest.windows(mark.len()).position(|window| window == mark);
    at.map_or(page.len(), |at| from + at + mark.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Shown<'_> =
        Shown { prefix: "/ns/a/proxy", hosts: ["api.example:6443", "localhost"] };

    #[test]
    fn links_from_the_root_of_the_server_lead_through_the_proxy() {
        for (link, expected) in [
            ("/", "/ns/a/proxy/"),
            ("/x/y", "/ns/a/proxy/x/y"),
            ("/x/", "/ns/a/proxy/x/"),
            ("/x?a=/b#c", "/ns/a/proxy/x?a=/b#c"),
            ("/x/../y//z", "/ns/a/proxy/y/z"),
            ("http://localhost/x", "/ns/a/proxy/x"),
            ("//localhost/x", "/ns/a/proxy/x"),
            ("https://api.example:6443/x", "https://api.example:6443/ns/a/proxy/x"),
            ("http://localhost/ns/a/proxy/x", "/ns/a/proxy/x"),
        ] {
            assert_eq!(HERE.link(link).as_deref(), Some(expected), "{link}");
        }
    }

    #[test]
    fn all_other_links_stay() {
        for link in [
            "",
            "x/y",
            "../x",
            "?a=b",
            "#top",
            "http://other.example/x",
            "//other.example/x",
            "http://localhost",
            "mailto:a@b",
            "javascript:void(0)",
            "data:text/html,/x",
            "/ns/a/proxy/x",
            "/x\n",
        ] {
            assert_eq!(HERE.link(link), None, "{link}");
        }
    }

    #[test]
    fn links_are_found_where_pages_have_them_and_nowhere_else() {
        let page = r#"<!DOCTYPE html><!-- <a href="/no"> --><HTML manifest=/m>
<link rel=x HREF = '/style.css'/><script src="/s.js">if (a<b) "<a href='/no'>"</script>
<style>a { background: url(/no) }</style><textarea><img src="/no"></textarea>
<p href="/no">1 < 2 <a title="<a href='/no'>" href="/a&amp;b" data-x>/no</a>
<form action=/f><input formaction="/g" src=rel.png></form></p><img =x src="/i"><a href="/open"#;
        let expected = page
            .replace("manifest=/m", "manifest=/ns/a/proxy/m")
            .replace("'/style.css'", "'/ns/a/proxy/style.css'")
            .replace("\"/s.js\"", "\"/ns/a/proxy/s.js\"")
            .replace("\"/a&amp;b\"", "\"/ns/a/proxy/a&amp;b\"")
            .replace("action=/f", "action=/ns/a/proxy/f")
            .replace("\"/g\"", "\"/ns/a/proxy/g\"")
            .replace("\"/i\"", "\"/ns/a/proxy/i\"")
            .replace("href=\"/open\"", "href=\"/ns/a/proxy/open\"");
        assert_eq!(String::from_utf8(HERE.page(page.as_bytes())).unwrap(), expected);
    }

    #[test]
    fn a_prefix_cannot_end_the_attribute_that_it_is_put_into() {
        let shown = Shown { prefix: "/proxy'\"><script>", hosts: ["a", "b"] };
        assert_eq!(shown.page(b"<a href='/x'>"), b"<a href='/proxy%27%22%3E%3Cscript%3E/x'>");
    }

    proptest! {
        #[test]
        fn any_page_comes_out_and_is_led_through_the_proxy_once(
            page in "(<a |href|=|\"/x\"|'|\"|>|<|/|!|--|script| |\u{e9}){0,30}",
        ) {
            let once = HERE.page(page.as_bytes());
            prop_assert_eq!(HERE.page(&once), once);
        }
    }
}
