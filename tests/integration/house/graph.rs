//! Directed graphs of names.

use std::collections::{BTreeMap, BTreeSet};

/// What each name imports.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// The groups of names that reach each other, each sorted.
pub fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|name| (name.as_str(), reach(graph, name))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (name, others) in &reached {
        let back =
            others.iter().filter(|other| reached.get(*other).is_some_and(|r| r.contains(name)));
        let circle: BTreeSet<String> = back.map(ToString::to_string).collect();
        if circle.len() > 1 {
            found.insert(circle.into_iter().collect());
        }
    }
    found.into_iter().collect()
}

/// All that `name` imports, itself or through others.
fn reach<'a>(graph: &'a Graph, name: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&str> = graph[name].iter().map(String::as_str).collect();
    while let Some(one) = next.pop() {
        if seen.insert(one) {
            next.extend(graph.get(one).into_iter().flatten().map(String::as_str));
        }
    }
    seen
}
