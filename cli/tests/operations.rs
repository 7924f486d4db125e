//! What the manual says of the options is what the command says of them.

use std::process::Command;

const MANUAL: &str = include_str!("../../docs/operations.md");

/// The options of all subcommands that serve.
fn options() -> Vec<(String, String)> {
    let mut all = options_of("serve");
    for option in options_of("exec").into_iter().chain(options_of("proxy")) {
        if !all.contains(&option) {
            all.push(option);
        }
    }
    all
}

/// The options that the help of a subcommand lists, each with its default; a switch is off.
fn options_of(subcommand: &str) -> Vec<(String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_socketserver"))
        .args([subcommand, "--help"])
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
    assert!(options.len() > 30, "{options:?}");
    // One upstream is needed.
    for (option, default) in options.into_iter().filter(|(option, _)| option != "to") {
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

/// The options of one listener, each with the schemes that have it: those of the help, and those of
/// the manual.
#[test]
fn the_options_of_a_listener_are_the_same_in_the_help_and_in_the_manual() {
    let output = Command::new(env!("CARGO_BIN_EXE_socketserver"))
        .args(["serve", "--help"])
        .output()
        .expect("run the command");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let (_, help) = help
        .split_once("Options of one listener")
        .expect("a paragraph of the help");
    let lines = help.lines().skip(1).take_while(|line| !line.is_empty());
    let helped: Vec<(&str, String)> = lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let option = words.next().expect("an option");
            // Two or more spaces end the schemes.
            let rest = line.trim_start()[option.len()..].trim_start();
            (
                option,
                rest.split("  ").next().unwrap_or_default().to_owned(),
            )
        })
        .collect();
    let (_, manual) = MANUAL
        .split_once("## Options of one listener")
        .expect("a section of the manual");
    let (manual, _) = manual.split_once("\n## ").expect("the next section");
    let told: Vec<(&str, String)> = manual
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`'), cells[2].to_owned())
        })
        .collect();
    assert_eq!(helped, told);
    assert!(helped.len() >= 3, "{helped:?}");
}
