package mailtest

func corpusFiles() []string { return nil }
func corpusDir() string     { return "" }
