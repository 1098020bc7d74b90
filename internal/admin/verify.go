package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"mailferry/backend"
)

// Verifications compares users' mail at two stores.
type Verifications interface {
	// Verify calls fn with each user's result as it comes, one call at a time,
	// until all are done or ctx ends or fn fails.
	Verify(ctx context.Context, r VerifyRequest, fn func(Verification) error) error
}

// VerifyRequest says what is to be compared.
type VerifyRequest struct {
	Users []string `json:"users,omitempty"`
	// Each holds, by names in Users, how single users log in at the store From.
	Each  map[string]MoveOptions `json:"each,omitempty"`
	Where string                 `json:"where,omitempty"` // selects users in the directory's own language
	From  string                 `json:"from"`
	To    string                 `json:"to"`
	// Bodies is the share of messages, in percent, whose octets are compared.
	Bodies    int  `json:"bodies"`
	Cached    bool `json:"cached,omitempty"`     // compare ENVELOPE, BODYSTRUCTURE and header, too
	ByContent bool `json:"by_content,omitempty"` // the stores do not share UIDs
	New       bool `json:"new,omitempty"`        // mail that came since is no difference
	Parallel  int  `json:"parallel,omitempty"`   // users at a time
	Samples   int  `json:"samples,omitempty"`    // differences shown of each class
}

// Verification is what was found for a user.
type Verification struct {
	User        string             `json:"user"`
	From        string             `json:"from"`
	To          string             `json:"to"`
	Equal       bool               `json:"equal"`
	Mailboxes   int                `json:"mailboxes"`
	Messages    int64              `json:"messages"`
	Bodies      int64              `json:"bodies"` // whose octets were compared
	New         int64              `json:"new,omitempty"`
	Classes     map[string]int     `json:"classes,omitempty"` // differences by class
	Differences []VerifyDifference `json:"differences,omitempty"`
	Error       string             `json:"error,omitempty"` // why it is not complete
}

// VerifyDifference is one thing that is not the same at both stores.
type VerifyDifference struct {
	Class   string `json:"class"`
	Mailbox string `json:"mailbox,omitempty"`
	UID     uint32 `json:"uid,omitempty"`
	What    string `json:"what,omitempty"`
}

// verifyEnd is the last line of a stream: without it the node has stopped.
type verifyEnd struct {
	End   bool   `json:"end"`
	Error string `json:"error,omitempty"`
}

// verify streams results as JSON lines.
func (s *Service) verify(w http.ResponseWriter, r *http.Request) {
	if s.Verifications == nil {
		writeError(w, missing("migrate"))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	request, err := body[VerifyRequest](r)
	if err != nil {
		writeError(w, err)
		return
	}
	begun := false
	flush, encoder := http.NewResponseController(w), json.NewEncoder(w)
	say := func(v any) error {
		if !begun {
			w.Header().Set("Content-Type", "application/jsonl")
			begun = true
		}
		if err := encoder.Encode(v); err != nil {
			return err
		}
		return flush.Flush()
	}
	err = s.Verifications.Verify(r.Context(), request, func(v Verification) error { return say(v) })
	switch {
	case err != nil && !begun:
		writeError(w, err)
	case err != nil:
		_ = say(verifyEnd{End: true, Error: err.Error()})
	default:
		_ = say(verifyEnd{End: true})
	}
}

// Verify implements Verifications.
func (c *Client) Verify(ctx context.Context, r VerifyRequest, fn func(Verification) error) error {
	resp, err := c.send(ctx, http.MethodPost, "/v1/verifications", r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var line struct {
			Verification
			End bool `json:"end"`
		}
		switch err := d.Decode(&line); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return backend.Errorf(backend.KindUnavailable, "", "the node stopped while it compared: %w", err)
		case line.End && line.Error != "":
			return errors.New(line.Error)
		case line.End:
			_, _ = io.Copy(io.Discard, resp.Body)
			return nil
		}
		if err := fn(line.Verification); err != nil {
			return err
		}
	}
}
