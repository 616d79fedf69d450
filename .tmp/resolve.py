import re,sys
for p in sys.argv[1:]:
    s=open(p).read()
    def both(m):
        a,b=m.group(1),m.group(2)
        if p.endswith("pyproject.toml"):
            return a.replace('"overview",','"overview | maintenance",') if "overview" in a else a+b
        return b+a
    s=re.sub(r"<<<<<<< [^\n]*\n(.*?)=======\n(.*?)>>>>>>> [^\n]*\n",both,s,flags=re.S)
    open(p,"w").write(s)
