module portcullis.test/regexp

go 1.25
