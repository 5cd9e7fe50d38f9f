//! Dependencies between the modules of each package, which must not form circles.

use super::sources::{ModulePath, Package, product};
use std::collections::{BTreeMap, BTreeSet};

/// One use of a module by another, and the path that shows it.
struct Use {
    from: ModulePath,
    to: ModulePath,
    path: String,
}

/// The parts of a `use` tree or a path: `a::{b, c::d}` is `a::b` and `a::c::d`. Also returns the number of parsed tokens.
fn paths(tokens: &[&str]) -> (Vec<Vec<String>>, usize) {
    let Some(first) = tokens.first() else { return (vec![vec![]], 0) };
    if *first == "{" {
        let mut all = Vec::new();
        let mut at = 1;
        while at < tokens.len() && tokens[at] != "}" {
            let (some, length) = paths(&tokens[at..]);
            all.extend(some);
            at += length.max(1);
            // `as NAME` and the comma.
            while at < tokens.len() && !["}", ","].contains(&tokens[at]) {
                at += 1;
            }
            at += usize::from(tokens.get(at) == Some(&","));
        }
        return (all, at + 1);
    }
    if !is_name(first) && *first != "*" {
        return (vec![vec![]], 0);
    }
    if tokens.get(1) != Some(&"::") {
        return (vec![vec![first.to_string()]], 1);
    }
    let (rest, length) = paths(&tokens[2..]);
    (rest.into_iter().map(|path| [vec![first.to_string()], path].concat()).collect(), 2 + length)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Splits code into names, `::`, and single characters.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(c) = rest.chars().next() {
        let length = if c.is_alphanumeric() || c == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The paths of a module's code that begin at the crate, at the module, at one above it, or, in a `pub use`, at one
/// inside it; absolute.
fn absolute_paths(package: &Package, module: &ModulePath, only_public_uses: bool) -> Vec<Vec<String>> {
    let tokens = tokens(&package.modules[module].code);
    let mut all = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let is_start = at == 0 || tokens[at - 1] != "::";
        let is_public_use = at > 1 && tokens[at - 1] == "use" && tokens[at - 2] == "pub";
        let is_relative = ["crate", "self", "super"].contains(token);
        if !is_start || only_public_uses != is_public_use || !(is_relative || is_public_use) {
            continue;
        }
        for mut path in paths(&tokens[at..]).0 {
            let mut base = module.clone();
            if path.first().is_some_and(|first| first == "crate") {
                base.clear();
            }
            while path.first().is_some_and(|first| ["crate", "self", "super"].contains(&first.as_str())) {
                if path.remove(0) == "super" {
                    base.pop();
                }
            }
            all.push([base, path].concat());
        }
    }
    all
}

/// Every use of a module by one that is neither inside it nor contains it. Re-exports are followed.
fn uses(package: &Package) -> Vec<Use> {
    let mut exports = BTreeMap::new();
    for module in package.modules.keys() {
        for path in absolute_paths(package, module, true) {
            if let Some(name) = path.last() {
                exports.insert([&module[..], std::slice::from_ref(name)].concat(), path);
            }
        }
    }
    let mut uses = Vec::new();
    for from in package.modules.keys() {
        for path in absolute_paths(package, from, false) {
            let mut target = path.clone();
            for _ in 0..8 {
                let exported = (1..=target.len()).rev().find_map(|length| {
                    let path = exports.get(&target[..length])?;
                    Some([&path[..], &target[length..]].concat())
                });
                match exported {
                    Some(exported) if exported != target => target = exported,
                    _ => break,
                }
            }
            let length =
                (0..=target.len()).rev().find(|length| package.modules.contains_key(&target[..*length]));
            let to = target[..length.unwrap()].to_vec();
            if !from.starts_with(&to) && !to.starts_with(from) {
                uses.push(Use { from: from.clone(), to, path: path.join("::") });
            }
        }
    }
    uses
}

type Graph<'a> = BTreeMap<&'a str, BTreeMap<&'a str, &'a Use>>;

fn reachable<'a>(graph: &Graph<'a>, start: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&str> = vec![start];
    while let Some(module) = next.pop() {
        for to in graph.get(module).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(*to) {
                next.push(to);
            }
        }
    }
    seen
}

/// Returns the circles between modules of one parent, each with its submodules.
fn circles(package: &Package) -> Vec<String> {
    let uses = uses(package);
    let mut graphs: BTreeMap<&[String], Graph> = BTreeMap::new();
    for one in &uses {
        let common = one.from.iter().zip(&one.to).take_while(|(a, b)| a == b).count();
        let graph = graphs.entry(&one.from[..common]).or_default();
        graph.entry(&one.from[common]).or_default().entry(&one.to[common]).or_insert(one);
    }
    let mut found = Vec::new();
    for (parent, graph) in graphs {
        let parent = [&["crate".to_string()], parent].concat().join("::");
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            graph.keys().map(|module| (*module, reachable(&graph, module))).collect();
        let mut circles: BTreeSet<Vec<&str>> = BTreeSet::new();
        for (module, others) in &reached {
            if others.contains(module) {
                let circle =
                    others.iter().filter(|other| reached.get(*other).is_some_and(|r| r.contains(module)));
                circles.insert(circle.copied().collect());
            }
        }
        for circle in circles {
            let mut text = format!("{}: {parent}: {}", package.name, circle.join(", "));
            for (from, to) in circle.iter().flat_map(|from| circle.iter().map(move |to| (from, to))) {
                if let Some(one) = graph[from].get(to) {
                    text += &format!("\n    {} uses {}", one.from.join("::"), one.path);
                }
            }
            found.push(text + "\n    to open it: move what both need into a module that uses neither");
        }
    }
    found
}

#[test]
fn modules_of_a_package_form_no_circle() {
    let found: Vec<String> = product().iter().flat_map(circles).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn paths_are_read_out_of_use_trees() {
    let code = tokens("super::a::{self, b::{C, d as e}, *} rest");
    let (paths, length) = paths(&code);
    let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["super::a::self", "super::a::b::C", "super::a::b::d", "super::a::*"]);
    assert_eq!(code[length], "rest");
}
