// Package web tries the page of weir run --web-bind-address in a real browser, beside a real weir. It has
// no code, only tests. They need root, Chromium and unshare, and run in a network namespace of their own, out of
// which nothing leads.
//
// Settings, by environment: WEIR_BINARY is tested in place of a new build; WEIR_WEB_SHOTS is a directory for
// screenshots.
package web
