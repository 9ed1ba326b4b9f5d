package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weir-project/weir/inspect/api"
)

// Client asks a running Weir over its socket.
type Client struct {
	Path string // of the socket
	http http.Client
}

// NewClient returns a client for the socket at path. It connects when it is asked something.
func NewClient(path string) *Client {
	c := &Client{Path: path}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	return c
}

// Close lets go of connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get asks for an object.
func (c *Client) Get(ctx context.Context, path string, query url.Values, into any) error {
	body, err := c.Open(ctx, http.MethodGet, path, query)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("weir at %s broke off in the middle of its answer: %w", c.Path, err)
	}
	return nil
}

// Open sends a request and returns the body of the answer, which must be closed. An answer that is an
// error comes back as one.
func (c *Client) Open(ctx context.Context, method, path string, query url.Values) (io.ReadCloser, error) {
	u := url.URL{Scheme: "http", Host: "weir", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var e api.Error
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&e); err != nil || e.Message == "" {
		return nil, fmt.Errorf("weir at %s answers %s to %s: is it of another version than this command?", c.Path, resp.Status, path)
	}
	return nil, errors.New(e.Message)
}

// explain says what to do about a socket that does not answer.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s is for root alone: try again with sudo", c.Path)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("no weir listens at %s: is weir run running on this node, and with this --socket?", c.Path)
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		return fmt.Errorf("weir at %s hung up: it has just stopped, or this is another user than its own", c.Path)
	}
	var unwrapped *url.Error
	if errors.As(err, &unwrapped) {
		err = unwrapped.Err
	}
	return fmt.Errorf("ask weir at %s: %w", c.Path, err)
}
