//! Functions that talk to something outside of the program, by the files and names that libraries give them.
//!
//! Only these can be what a loop calls too often without looking like it: a loop over small functions is normal code.
//! For each library it is the innermost function that is called once for each question. The names were looked up in these
//! releases: Django 6.1, SQLAlchemy 2.1, psycopg 3.3, PyMySQL 1.2, asyncpg 0.32, aiosqlite 0.22, peewee 4.5, pymongo 4.20,
//! redis 8.1, pymemcache 4.0, urllib3 2.8, requests 2.34, httpx 0.28, aiohttp 3.14, botocore 1.44; the standard library's in
//! CPython 3.12.

/// What is asked for, the end of the file's path without `.py`, and the function's own name.
const KNOWN: &[(&str, &str, &[&str])] = &[
    (
        "database query",
        "django/db/backends/utils",
        &["execute", "executemany"],
    ),
    (
        "database query",
        "django/db/backends/sqlite3/base",
        &["execute", "executemany"],
    ),
    (
        "database query",
        "django/db/backends/mysql/base",
        &["execute", "executemany"],
    ),
    (
        "database query",
        "sqlalchemy/engine/default",
        &["do_execute", "do_executemany"],
    ),
    ("database query", "psycopg/cursor", &["execute", "executemany"]),
    ("database query", "psycopg/cursor_async", &["execute", "executemany"]),
    ("database query", "pymysql/cursors", &["execute"]),
    (
        "database query",
        "asyncpg/connection",
        &["execute", "fetch", "fetchrow", "fetchval"],
    ),
    ("database query", "aiosqlite/core", &["execute", "executemany"]),
    ("database query", "peewee", &["execute_sql"]),
    ("database query", "pymongo/synchronous/pool", &["command"]),
    ("cache command", "redis/client", &["execute_command"]),
    ("cache command", "redis/asyncio/client", &["execute_command"]),
    (
        "cache command",
        "pymemcache/client/base",
        &["_fetch_cmd", "_store_cmd", "_misc_cmd"],
    ),
    ("HTTP request", "urllib3/connectionpool", &["urlopen"]),
    ("HTTP request", "requests/sessions", &["send"]),
    ("HTTP request", "httpx/_client", &["send"]),
    ("HTTP request", "aiohttp/client", &["_request"]),
    ("HTTP request", "botocore/client", &["_make_api_call"]),
    ("HTTP request", "urllib/request", &["urlopen"]),
    ("connection", "socket", &["create_connection"]),
    ("process started", "subprocess", &["_execute_child"]),
];

/// What a function asks for outside, if it does.
pub(super) fn asks_for(file: &str, name: &str) -> Option<&'static str> {
    let file = file.strip_suffix(".py")?;
    let known = KNOWN
        .iter()
        .find(|(_, path, names)| names.contains(&name) && super::ends_with_path(file, path));
    // A module of the program's own can be called `socket` as well.
    known.filter(|_| is_library(file)).map(|&(what, ..)| what)
}

/// Whether a file is of the standard library, or was installed; or is none.
pub(super) fn is_library(file: &str) -> bool {
    file.starts_with('<')
        || ["/site-packages/", "/dist-packages/", "/lib/python3"]
            .iter()
            .any(|part| file.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_ask_outside_are_known_and_own_modules_of_their_names_are_not() {
        let site = "/srv/venv/lib/python3.12/site-packages";
        assert_eq!(
            asks_for(&format!("{site}/django/db/backends/sqlite3/base.py"), "execute"),
            Some("database query")
        );
        assert_eq!(
            asks_for("/usr/lib/python3.11/socket.py", "create_connection"),
            Some("connection")
        );
        for (file, name) in [
            ("/srv/app/socket.py", "create_connection"),
            ("/srv/app/tasks.py", "execute"),
            ("/srv/venv/lib/python3.12/site-packages/mypeewee.py", "execute_sql"),
            ("<frozen os>", "execute"),
        ] {
            assert_eq!(asks_for(file, name), None, "{file} {name}");
        }
    }
}
