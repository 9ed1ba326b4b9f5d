package forward

import "github.com/weir-project/weir/dns"

var _ dns.CachingForwarder = (*Forwarder)(nil)
