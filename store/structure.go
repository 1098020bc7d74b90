package store

import (
	"context"

	"mailferry/cluster/engine"
	"mailferry/store/message"
)

// newBody begins a body whose structure is found out while it is written.
func newBody(ctx context.Context, sh engine.Shard) (engine.BodyWriter, error) {
	w, err := sh.NewBody(ctx)
	return parsed(w, err)
}

// newBulkBody is newBody for one of many that are filed together.
func newBulkBody(ctx context.Context, sh engine.Shard) (engine.BodyWriter, error) {
	w, err := sh.NewBulkBody(ctx)
	return parsed(w, err)
}

func parsed(w engine.BodyWriter, err error) (engine.BodyWriter, error) {
	if err != nil {
		return nil, engineError(err)
	}
	return &bodyWriter{BodyWriter: w, parser: message.NewParser()}, nil
}

// bodyWriter has the parser listen to what is written.
type bodyWriter struct {
	engine.BodyWriter
	parser *message.Parser
}

func (w *bodyWriter) Write(p []byte) (int, error) {
	n, err := w.BodyWriter.Write(p)
	w.parser.Write(p[:n])
	return n, err
}

// Finish implements engine.BodyWriter; the body knows its structure.
func (w *bodyWriter) Finish() (engine.StagedBody, error) {
	b, err := w.BodyWriter.Finish()
	if err != nil {
		return nil, engineError(err)
	}
	return parsedBody{b, structureBlob(w.parser)}, nil
}

// structureBlob ends a parser; nil when the blob would be too large to keep.
func structureBlob(p *message.Parser) []byte {
	blob, err := p.Finish().MarshalBinary()
	if err != nil || len(blob) > MaxStructure {
		return nil
	}
	return blob
}

// parsedBody is a staged body with the structure of its message.
type parsedBody struct {
	engine.StagedBody
	structure []byte
}

// structureOf is the structure that came with a body, nil without one.
func structureOf(b engine.StagedBody) []byte {
	p, _ := b.(parsedBody)
	return p.structure
}

// plainBodies are bodies as the engine made them.
func plainBodies(bodies []engine.StagedBody) []engine.StagedBody {
	out := make([]engine.StagedBody, len(bodies))
	for i, b := range bodies {
		if p, ok := b.(parsedBody); ok {
			b = p.StagedBody
		}
		out[i] = b
	}
	return out
}
