//! What the manual says of the options is what the command says of them.

use std::process::Command;

const MANUAL: &str = include_str!("../../docs/operations.md");

/// The options that `serve --help` lists, each with its default; a switch is off.
fn options() -> Vec<(String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_socketserver"))
        .args(["serve", "--help"])
        .output()
        .expect("run the command");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let mut options: Vec<(String, String)> = Vec::new();
    for line in help.lines().map(str::trim) {
        let name = line
            .strip_prefix("--")
            .and_then(|rest| rest.split(' ').next());
        if let Some(name) = name {
            options.push((name.to_owned(), "off".to_owned()));
        }
        let default = line
            .split_once("[default: ")
            .and_then(|(_, rest)| rest.split_once(']'));
        if let (Some((default, _)), Some((_, of))) = (default, options.last_mut()) {
            default.clone_into(of);
        }
    }
    options
}

/// The rows of the manual's table of options: the names of one or several, and the defaults of all.
fn rows() -> impl Iterator<Item = (Vec<&'static str>, &'static str)> {
    MANUAL.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let names = cells.get(1)?.split("`--").skip(1);
        let name = |name: &'static str| name.split([' ', '`']).next();
        Some((names.filter_map(name).collect(), *cells.get(3)?))
    })
}

/// The default of one option: its first word, which is all that is the same in prose.
fn manual_of(option: &str) -> Option<String> {
    let (names, defaults) = rows().find(|(names, _)| names.contains(&option))?;
    let index = names.iter().position(|name| *name == option)?;
    let default = if names.len() > 1 {
        defaults.split(", ").nth(index)?
    } else {
        defaults
    };
    Some(first_word(default))
}

fn first_word(text: &str) -> String {
    let word = text.split(' ').next().unwrap_or_default();
    let word = word.replace([',', '`'], "");
    if text == "no limit" {
        "none".to_owned()
    } else {
        word
    }
}

#[test]
fn every_option_is_in_the_manual_with_its_default() {
    let options = options();
    assert!(options.len() > 15, "{options:?}");
    for (option, default) in options {
        let told = manual_of(&option);
        assert_eq!(told, Some(first_word(&default)), "--{option}");
    }
}

#[test]
fn every_option_of_the_manual_exists() {
    let options = options();
    for name in rows().flat_map(|(names, _)| names) {
        let exists = options.iter().any(|(option, _)| option == name);
        assert!(exists, "--{name}");
    }
}
