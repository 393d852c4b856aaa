//! What a command printed, without what may differ between two servers.

use regex::Regex;

/// Each with what stands in its place.
const RULES: &[(&str, &str)] = &[
    (r"(?m)^\{\x22level\x22.*\n", ""),
    (r"https?://127\.0\.0\.1:\d+", "URL"),
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"took = \S+", "took = TIME"),
    (r"took too long.*", "took too long"),
    (r"remaining\(\d+s\)", "remaining(Ns)"),
    (r#""(cluster_id|member_id|raft_term|ID|lease)":\d+"#, "\"$1\":N"),
    (r#""(ClusterID|MemberID|RaftTerm|ID)" : \d+"#, "\"$1\" : N"),
    (r"(ClusterID|MemberID|RaftTerm|Lease)(\W+)\d+", "$1${2}N"),
    // After the numbers: one of sixteen digits looks like this as well.
    (r"\b[0-9a-f]{13,16}\b", "ID"),
    // It is padded to sixteen.
    (r" {2,4}ID\b", " ID"),
    (r", \d+\b\n", ", HASH\n"),
    (r"/tmp/\S+", "PATH"),
];

#[derive(Debug, PartialEq, Eq)]
pub struct Printed {
    pub succeeded: bool,
    pub out: String,
    pub error: String,
}

impl Printed {
    pub fn of(output: &std::process::Output) -> Printed {
        Printed {
            succeeded: output.status.success(),
            out: normalized(&String::from_utf8_lossy(&output.stdout)),
            error: normalized(&String::from_utf8_lossy(&output.stderr)),
        }
    }
}

pub fn normalized(text: &str) -> String {
    let text = RULES.iter().fold(text.to_owned(), |text, (pattern, with)| {
        let pattern = Regex::new(pattern).expect("the rules are patterns");
        pattern.replace_all(&text, *with).into_owned()
    });
    // Members stand in the order of their ids, and etcd draws its own by chance.
    let members = Regex::new(r#"ETCD_INITIAL_CLUSTER="([^"]*)""#).expect("it is a pattern");
    let sorted = |found: &regex::Captures<'_>| {
        let mut members: Vec<&str> = found[1].split(',').collect();
        members.sort_unstable();
        format!("ETCD_INITIAL_CLUSTER=\"{}\"", members.join(","))
    };
    let text = members.replace_all(&text, sorted);
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines
        .chunk_by_mut(|one, other| is_member(one) && is_member(other))
        .for_each(<[_]>::sort_unstable);
    lines.concat()
}

/// A line of `member list`.
fn is_member(line: &str) -> bool {
    line.starts_with("ID, started, ") || line.starts_with("ID, unstarted, ")
}
