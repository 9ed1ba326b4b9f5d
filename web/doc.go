// Package web is a page that shows what a running Weir does: services and their endpoints, how long
// changes take, what is contested or set aside, and DNS. It reads and never changes anything.
//
//	GET /                 the page: one file each of HTML, CSS, JavaScript and an icon, embedded
//	GET /data/overview    Overview; ?after=ID leaves out syncs that the page has
//	GET /data/services    Page; ?q= filters, ?offset= turns the page
//	GET /data/service     Service; ?namespace= and ?name=
//
// Whatever grows with the cluster is cut on this side: a page shows a hundred Services and of a Service
// a hundred endpoints per port, and counts the rest by zone and node. The forms are the page's own and may change
// with it; programs ask the control socket (package inspect), whose forms are versioned.
//
// The page asks every two seconds and, when nobody answers, less and less often. It uses nothing that it
// has not got from here, and its content security policy allows nothing else. A name or an address
// becomes text, never markup.
package web
