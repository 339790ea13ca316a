//! The modules of a crate, and which file each path in them leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::Visit;

use super::graph::Graph;

/// Names of modules from the crate's root; the root itself is empty.
type ModulePath = Vec<String>;

/// A file with its module.
#[derive(Default)]
struct Module {
    /// As it is named in messages: `src/nn/mask.rs`.
    file: String,
    /// The modules that it declares in files of their own.
    children: BTreeSet<String>,
    /// Where the names lead that it re-exports or imports.
    names: BTreeMap<String, ModulePath>,
    /// Modules all of whose names it re-exports or imports.
    globs: Vec<ModulePath>,
    /// Full paths, from the crate's root, of what it uses.
    uses: BTreeSet<ModulePath>,
}

/// The source of a crate.
pub struct Crate {
    modules: BTreeMap<ModulePath, Module>,
    /// Files that import files.
    edges: BTreeSet<(String, String)>,
}

impl Crate {
    /// Reads every file below `folder`, other crates' folders aside.
    pub fn read(folder: &Path) -> Self {
        let mut modules = BTreeMap::new();
        read_folder(folder, "src", &[], &mut modules);
        assert!(modules.len() > 2, "{} has source files", folder.display());
        let edges = modules
            .values()
            .flat_map(|module: &Module| {
                let target = |path: &ModulePath| {
                    let to: &Module = &modules[&resolve(&modules, path, 0)];
                    (module.file.clone(), to.file.clone())
                };
                module.uses.iter().map(target).collect::<Vec<_>>()
            })
            .filter(|(from, to)| from != to && to != "src/lib.rs")
            .collect();
        Self { modules, edges }
    }

    /// For each folder, what its files and folders import of each other.
    pub fn siblings(&self) -> BTreeMap<String, Graph> {
        let mut folders: BTreeMap<String, Graph> = BTreeMap::new();
        for file in self.modules.values().map(|module| &module.file) {
            let parts: Vec<&str> = file.split('/').collect();
            for depth in 1..parts.len() {
                let graph = folders.entry(parts[..depth].join("/")).or_default();
                graph.entry(parts[depth].to_string()).or_default();
            }
        }
        for (from, to) in &self.edges {
            let (folder, [from, to]) = parted(from, to);
            folders.get_mut(&folder).unwrap().get_mut(&from).unwrap().insert(to);
        }
        folders
    }

    /// The imports between files that make those between `names` in `folder`.
    pub fn edges_among(&self, folder: &str, names: &[String]) -> Vec<(&str, &str)> {
        let is_among = |(from, to): &&(String, String)| {
            let (parent, both) = parted(from, to);
            parent == folder && both.iter().all(|name| names.contains(name))
        };
        self.edges.iter().filter(is_among).map(|(a, b)| (a.as_str(), b.as_str())).collect()
    }

    /// What the folders below `src` import of each other.
    pub fn rooms(&self) -> Graph {
        let mut rooms = self.siblings().remove("src").unwrap();
        rooms.retain(|name, _| !["lib.rs", "main.rs", "bin"].contains(&name.as_str()));
        let plain = |name: &String| name.trim_end_matches(".rs").to_string();
        rooms
            .iter()
            .map(|(name, others)| (plain(name), others.iter().map(plain).collect()))
            .collect()
    }

    /// Files of `room` that import the folder `other`.
    pub fn examples(&self, room: &str, other: &str) -> Vec<String> {
        let lies_in = |file: &str, room: &str| {
            file.strip_prefix("src/")
                .and_then(|rest| rest.strip_prefix(room))
                .is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
        };
        let edges = self.edges.iter().filter(|(a, b)| lies_in(a, room) && lies_in(b, other));
        edges.map(|(a, b)| format!("{a} -> {b}")).collect()
    }
}

/// The folder that two files have in common, and what leads to each of them there.
fn parted(from: &str, to: &str) -> (String, [String; 2]) {
    let [from, to]: [Vec<&str>; 2] = [from, to].map(|file| file.split('/').collect());
    let depth = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    (from[..depth].join("/"), [from[depth].to_string(), to[depth].to_string()])
}

fn read_folder(
    folder: &Path,
    shown: &str,
    path: &[String],
    modules: &mut BTreeMap<ModulePath, Module>,
) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        let name = entry.file_name().unwrap().to_str().unwrap();
        let shown = format!("{shown}/{name}");
        if entry.is_dir() {
            if !entry.join("Cargo.toml").exists() && name != "bin" {
                let below = [path, &[name.to_string()]].concat();
                read_folder(&entry, &shown, &below, modules);
            }
            continue;
        }
        // The root of the data crate is its mod.rs.
        let own = match name.strip_suffix(".rs") {
            None | Some("main") => continue,
            Some("mod" | "lib") => path.to_vec(),
            Some(stem) => [path, &[stem.to_string()]].concat(),
        };
        let text = fs::read_to_string(&entry).unwrap();
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let mut reader =
            Reader { path: own.clone(), module: Module { file: shown, ..Module::default() } };
        reader.visit_file(&parsed);
        modules.insert(own, reader.module);
    }
}

/// The module whose file defines what `path` names. A path's last parts may be items, or names within
/// items.
fn resolve(modules: &BTreeMap<ModulePath, Module>, path: &[String], depth: usize) -> ModulePath {
    let mut at: ModulePath = Vec::new();
    for (index, name) in path.iter().enumerate() {
        let below = [at.as_slice(), std::slice::from_ref(name)].concat();
        if modules.contains_key(&below) {
            at = below;
            continue;
        }
        let module = &modules[&at];
        let rest = &path[index + 1..];
        if let Some(target) = module.names.get(name)
            && depth < 16
        {
            return resolve(modules, &[target, rest].concat(), depth + 1);
        }
        let through_globs = module.globs.iter().find_map(|glob| {
            let target = resolve(modules, &[glob.as_slice(), &path[index..]].concat(), depth + 1);
            (depth < 16 && target != *glob).then_some(target)
        });
        return through_globs.unwrap_or(at);
    }
    at
}

/// Reads what a module uses. Tests are left out: they may look at everything.
struct Reader {
    path: ModulePath,
    module: Module,
}

impl Reader {
    /// From the crate's root; none if it leads to another crate.
    fn full(&self, path: &[String]) -> Option<ModulePath> {
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([&self.path, &path[1..]].concat()),
            "super" => {
                let parent = &self.path[..self.path.len().checked_sub(1)?];
                let above = Self { path: parent.to_vec(), module: Module::default() };
                match path.get(1).map(String::as_str) {
                    Some("super") => above.full(&path[1..]),
                    _ => Some([parent, &path[1..]].concat()),
                }
            }
            // A child module, an item of this file or an imported name: told apart when all is read.
            _ => None,
        }
    }

    fn add_use(&mut self, tree: &syn::UseTree, before: &[String], is_public: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                let before = [before, &[path.ident.to_string()]].concat();
                self.add_use(&path.tree, &before, is_public);
            }
            syn::UseTree::Name(name) => self.add_name(before, &name.ident, &name.ident, is_public),
            syn::UseTree::Rename(name) => {
                self.add_name(before, &name.ident, &name.rename, is_public)
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_use(tree, before, is_public));
            }
            syn::UseTree::Glob(_) => {
                if let Some(path) = self.full(before).or_else(|| self.child(before)) {
                    self.module.globs.push(path.clone());
                    self.note(path, is_public);
                }
            }
        }
    }

    fn add_name(
        &mut self,
        before: &[String],
        name: &syn::Ident,
        shown: &syn::Ident,
        is_public: bool,
    ) {
        let name = name.to_string();
        let path = if name == "self" { before.to_vec() } else { [before, &[name]].concat() };
        let Some(path) = self.full(&path).or_else(|| self.child(&path)) else { return };
        let shown = if shown == "self" { path.last().cloned() } else { Some(shown.to_string()) };
        self.module.names.extend(shown.map(|shown| (shown, path.clone())));
        self.note(path, is_public);
    }

    /// A path that begins with the name of a module declared in this file.
    fn child(&self, path: &[String]) -> Option<ModulePath> {
        let first = path.first()?;
        self.module.children.contains(first).then(|| [&self.path, path].concat())
    }

    /// What a module re-exports of its own children is no import: that is how they are reached.
    fn note(&mut self, path: ModulePath, is_public: bool) {
        if !(is_public && path.starts_with(&self.path)) {
            self.module.uses.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_file(&mut self, file: &'ast syn::File) {
        for item in &file.items {
            if let syn::Item::Mod(module) = item
                && module.content.is_none()
            {
                self.module.children.insert(module.ident.to_string());
            }
        }
        syn::visit::visit_file(self, file);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let is_test = module.attrs.iter().any(|attribute| attribute.path().is_ident("cfg"));
        if !is_test {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        self.add_use(&item.tree, &[], is_public);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if names.len() > 1
            && let Some(path) = self.full(&names).or_else(|| self.child(&names))
        {
            self.module.uses.insert(path);
        }
        syn::visit::visit_path(self, path);
    }
}
