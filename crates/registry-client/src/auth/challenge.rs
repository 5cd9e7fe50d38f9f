//! Parser of the `WWW-Authenticate` header (RFC 9110, 11.6.1), tolerant of what servers get wrong.

/// One challenge of a header: `Bearer realm="...",service="..."`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// In lowercase.
    pub scheme: String,
    /// Keys in lowercase.
    params: Vec<(String, String)>,
}

impl Challenge {
    /// Returns the value of a parameter; `key` is in lowercase.
    pub fn param(&self, key: &str) -> Option<&str> {
        self.params.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Parses all challenges of one header value. If the end is malformed, the challenge that it belongs to is dropped, and
/// no other: half a realm would be a wrong URL.
pub fn parse(value: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((word, after)) = token(rest) else {
            // Neither a token nor the end: the last challenge is malformed.
            if !rest.is_empty() {
                found.pop();
            }
            return found;
        };
        let after_space = after.trim_start_matches([' ', '\t']);
        let Some(assigned) = after_space.strip_prefix('=') else {
            found.push(Challenge { scheme: word.to_ascii_lowercase(), params: Vec::new() });
            rest = skip_token68(after);
            continue;
        };
        let Some((text, after_value)) = param_value(assigned.trim_start_matches([' ', '\t'])) else {
            found.pop();
            return found;
        };
        // A parameter before the first scheme is ignored.
        if let Some(challenge) = found.last_mut() {
            challenge.params.push((word.to_ascii_lowercase(), text));
        }
        rest = after_value;
    }
}

/// Skips the token68 of `Negotiate oRQwEqADCgEBoQsGCS==`, which takes the place of parameters.
fn skip_token68(after_scheme: &str) -> &str {
    let start = after_scheme.trim_start_matches([' ', '\t']);
    let is_68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
    let end = start.find(|c| !is_68(c)).unwrap_or(start.len());
    let after = start[end..].trim_start_matches('=');
    let ends_here = after.is_empty() || after.trim_start_matches([' ', '\t']).starts_with(',');
    let padded = after.len() < start.len() - end;
    // A token before a comma could also be the next scheme; only padding, '/' or '+' show that it is base64.
    if end > 0 && ends_here && (padded || start[..end].contains(['/', '+'])) { after } else { after_scheme }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// Returns a value, quoted or not, and the rest, which starts with a comma, white space or is empty. Some servers do not
/// quote the realm.
fn param_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t', '"']).unwrap_or(text.len());
        let clean = !text[end..].starts_with('"');
        return (end > 0 && clean).then(|| (text[..end].to_string(), &text[end..]));
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let after = &quoted[at + 1..];
                let ends = after.is_empty() || after.starts_with([',', ' ', '\t']);
                return ends.then_some((out, after));
            }
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scheme key=value key=value | scheme`
    fn shown(value: &str) -> String {
        let show = |challenge: Challenge| {
            let params = challenge.params.iter().map(|(key, value)| format!(" {key}={value}"));
            std::iter::once(challenge.scheme.clone()).chain(params).collect::<String>()
        };
        parse(value).into_iter().map(show).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        let check = |value: &str, meant: &str| assert_eq!(shown(value), meant, "{value}");
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            "bearer realm=https://auth.docker.io/token service=registry.docker.io scope=repository:a/b:pull,push",
        );
        check(r#"Basic realm="a, b = \"c\"""#, r#"basic realm=a, b = "c""#);
        check(r#"Basic realm="x", Bearer realm="y",service=z"#, "basic realm=x | bearer realm=y service=z");
        check(r#"Negotiate, Basic realm="x""#, "negotiate | basic realm=x");
        check(r#"Negotiate YII/KoZ+==, Basic realm="x""#, "negotiate | basic realm=x");
        check("BEARER Realm=https://h/t", "bearer realm=https://h/t");
        check(r#"Bearer realm = "x" , service = "y""#, "bearer realm=x service=y");
        check(r#"Bearer realm="x" service="y""#, "bearer realm=x service=y");
        check(r#"Bearer realm="""#, "bearer realm=");
        check("Bearer", "bearer");
        check("", "");
        check(" , ,", "");
    }

    #[test]
    fn malformed_challenges_are_dropped() {
        let check = |value: &str, meant: &str| assert_eq!(shown(value), meant, "{value}");
        check(r#"Bearer realm="https://a"#, "");
        check(r#"Bearer realm="https://a"x"#, "");
        check(r#"Bearer realm="https://a\"#, "");
        check(r#"Bearer realm=https://a"b""#, "");
        check(r#"Basic realm="ok", Bearer realm="https://a"x"#, "basic realm=ok");
        check("Bearer realm=", "bearer");
        check("Bearer realm=\"a\", \u{7f}", "");
        check(r#"="x""#, "");
        check(r#"realm="x""#, "");
    }
}
